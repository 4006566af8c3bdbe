"""What is sent on one id: who waits for the answer, and what it counts for. On the I/O loop only.

The socket's `Outbound` knows bytes and tickets; the requests and reservations behind them are known here.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionState
from mooring.link.messages_sent import Send, SendFailed, SendQueued, Sent
from mooring.wire.frames import BINARY, TEXT
from mooring.wire.outbound import Outbound


class Ticket(msgspec.Struct):
    """What stands for messages that wait for the peer to read; without one they came from code in the worker.

    `request` 0: they came from there all the same. `ttl_s`: so long they may wait for another socket; None: they may not.
    """

    request: int
    key: str | None  # Idempotency-Key
    opcode: int = TEXT
    payloads: list[bytes] = []
    ttl_s: float | None = None


class Awaited(msgspec.Struct, eq=False):
    """The ticket of a message whose sender is told what became of it."""

    written: Callable[[], None]
    unwritten: Callable[[bool], None]


OWN = Ticket(-1, None)
"""The ticket of what mooring says itself (steps, answers, heartbeats): nobody waits for it, and it is counted nowhere."""


class Sends:
    """The messages that are sent on one connection.

    Attributes:
        on_sent: Called whenever messages were written, where somebody wants to know.
    """

    __slots__ = ("_connection", "_host", "_keyed", "on_sent")

    def __init__(self, host: Host, connection: RecordedConnection) -> None:
        self._host = host
        self._connection = connection
        self._keyed: dict[str, Ticket] = {}
        self.on_sent: Callable[[], None] | None = None

    def send(self, command: Send, outbound: Outbound | None) -> Sent | SendFailed | SendQueued | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again.

        Args:
            outbound: Where messages go just now; None: no socket is ready.
        """
        if outbound is None:
            return refused(command.request, self._connection.refusing)
        return None if self._known(command) else self._write(command, outbound, None)

    def _known(self, command: Send) -> bool:
        """Say whether it waits already: asked again after a crash of the service, it is written once."""
        if command.key is None or command.key not in self._keyed:
            return False
        self._keyed[command.key].request = command.request
        return True

    def _ticket(self, command: Send, ttl_s: float | None) -> Ticket:
        opcode = BINARY if command.binary else TEXT
        ticket = Ticket(command.request, command.key, opcode, command.payloads, ttl_s)
        if command.key is not None:
            self._keyed[command.key] = ticket
        return ticket

    def _write(self, command: Send, outbound: Outbound, ttl_s: float | None) -> Sent | SendFailed | None:
        payloads = command.payloads
        size = sum(map(len, payloads))
        opcode = BINARY if command.binary else TEXT
        if outbound.write_now(opcode, payloads):
            return self._count(command.request, len(payloads), size)
        if not outbound.has_room(size):
            return SendFailed(command.request, 0, self._connection.state.value, stalled=True)
        ticket = self._ticket(command, ttl_s)
        outbound.queue(ticket, opcode, payloads, size, self._connection.options.send_timeout_s)
        return None

    def send_from_worker(
        self, opcode: int, payload: bytes, outbound: Outbound | None, ttl_s: float | None = None
    ) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand."""
        if outbound is None:
            self._host.release(self._connection, len(payload))  # the socket has ended meanwhile: its event says so
        elif outbound.write_now(opcode, [payload]):
            self.written(None, 1, len(payload))
        else:
            outbound.queue(None, opcode, [payload], len(payload))

    def send_own(self, opcode: int, payload: bytes, outbound: Outbound) -> bool:
        """Write what mooring says itself, or have it wait for the peer to read; False: there is no room."""
        if not outbound.write_now(opcode, [payload]):
            if not outbound.has_room(len(payload)):
                return False
            outbound.queue(OWN, opcode, [payload], len(payload), self._connection.options.send_timeout_s)
        return True

    def send_request(self, payload: bytes, outbound: Outbound, ticket: Awaited) -> bool:
        """Write a request, or have it wait for the peer to read; False: there is no room for it."""
        if outbound.write_now(TEXT, [payload]):
            self.written(ticket, 1, len(payload))
        elif outbound.has_room(len(payload)):
            outbound.queue(ticket, TEXT, [payload], len(payload), self._connection.options.send_timeout_s)
        else:
            return False
        return True

    def waits(self) -> None:
        """The peer reads too slowly for all that is sent (`Sender`)."""
        self._host.waits(self._connection)

    def written(self, ticket: Ticket | Awaited | None, count: int, size: int) -> None:
        """Messages were written (`Sender`)."""
        if ticket is OWN:
            return
        if isinstance(ticket, Awaited):
            ticket.written()
            self._count(0, count, size)
            self._host.figures_changed(self._connection)
        elif ticket is None:
            self._count(0, count, size)
            self._host.release(self._connection, size)
            self._host.figures_changed(self._connection)
        else:
            self._forget(ticket)
            self._host.answer_send(self._count(ticket.request, count, size), ticket.key)

    def unwritten(self, ticket: Ticket | Awaited | None, size: int, *, stalled: bool) -> None:
        """Messages were not written, and will not be (`Sender`)."""
        if ticket is OWN:
            return
        if isinstance(ticket, Awaited):
            ticket.unwritten(stalled)
            return
        if ticket is None:
            self._host.release(self._connection, size)
            return
        self._forget(ticket)
        connection = self._connection
        if stalled:
            self._host.answer(SendFailed(ticket.request, 0, connection.state.value, stalled=True))
        else:
            self._host.answer(refused(ticket.request, connection.refusing))

    def caught_up(self) -> None:
        """The peer has read all that has waited (`Sender`)."""

    def _forget(self, ticket: Ticket) -> None:
        if ticket.key is not None:
            del self._keyed[ticket.key]

    def _count(self, request: int, count: int, size: int) -> Sent:
        connection, metrics = self._connection, self._host.metrics
        if self.on_sent is not None:
            self.on_sent()
        connection.messages_out += count
        connection.bytes_out += size
        metrics.messages_out += count
        metrics.bytes_out += size
        return Sent(request, count, size, connection.messages_out, connection.bytes_out)


def refused(request: int, state: ConnectionState) -> SendFailed:
    """Return the answer to a send on a connection that is in `state`, or just coming to it."""
    return SendFailed(request, 0, state.value)
