"""What is sent on one id: who waits for the answer, and what it counts for. On the I/O loop only.

The socket's `Outbound` knows bytes and tickets; the requests and reservations behind them are known here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionState
from mooring.link.messages import Send, SendFailed, Sent
from mooring.wire.frames import BINARY, TEXT
from mooring.wire.outbound import Outbound


class _Waiting(msgspec.Struct):
    """The ticket of a request whose messages wait for the peer to read; without one they came from code in the worker."""

    request: int
    key: str | None  # Idempotency-Key


OWN = object()
"""The ticket of what mooring says itself (steps, answers, heartbeats): nobody waits for it, and it is counted nowhere."""


class Sends:
    """The messages that are sent on one connection."""

    __slots__ = ("_connection", "_host", "_keyed")

    def __init__(self, host: Host, connection: RecordedConnection) -> None:
        self._host = host
        self._connection = connection
        self._keyed: dict[str, _Waiting] = {}

    def send(self, command: Send, outbound: Outbound) -> Sent | SendFailed | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again."""
        payloads = command.payloads
        size = sum(map(len, payloads))
        opcode = BINARY if command.binary else TEXT
        if outbound.write_now(opcode, payloads):
            return self._count(command.request, len(payloads), size)
        key = command.key
        if key is not None and key in self._keyed:
            # Asked again after a crash of the service: it waits already, and is written once.
            self._keyed[key].request = command.request
            return None
        if not outbound.has_room(size):
            return SendFailed(command.request, 0, self._connection.state.value, stalled=True)
        waiting = _Waiting(command.request, key)
        if key is not None:
            self._keyed[key] = waiting
        outbound.queue(waiting, opcode, payloads, size, self._connection.options.send_timeout_s)
        return None

    def send_from_worker(self, opcode: int, payload: bytes, outbound: Outbound) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand."""
        if outbound.write_now(opcode, [payload]):
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

    def written(self, ticket: Any, count: int, size: int) -> None:
        """Messages were written (`Sender`)."""
        if ticket is OWN:
            return
        if ticket is None:
            self._count(0, count, size)
            self._host.release(self._connection, size)
            self._host.figures_changed(self._connection)
        else:
            self._forget(ticket)
            self._host.answer_send(self._count(ticket.request, count, size), ticket.key)

    def unwritten(self, ticket: Any, size: int, *, stalled: bool) -> None:
        """Messages were not written, and will not be (`Sender`)."""
        if ticket is OWN:
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

    def _forget(self, ticket: _Waiting) -> None:
        if ticket.key is not None:
            del self._keyed[ticket.key]

    def _count(self, request: int, count: int, size: int) -> Sent:
        connection, metrics = self._connection, self._host.metrics
        connection.messages_out += count
        connection.bytes_out += size
        metrics.messages_out += count
        metrics.bytes_out += size
        return Sent(request, count, size, connection.messages_out, connection.bytes_out)


def refused(request: int, state: ConnectionState) -> SendFailed:
    """Return the answer to a send on a connection that is in `state`, or just coming to it."""
    return SendFailed(request, 0, state.value)
