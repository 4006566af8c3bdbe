"""What is sent on a kept connection: at once while a socket is ready, else as ``whenDown`` says. On the I/O loop only.

The order is that of the sends. What waits in the `queue` has no part in any socket: it is taken out one by one, when it can be
written at once. What is sent meanwhile and must not wait for another socket stands `behind` it, for ``sendTimeout``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Protocol

import msgspec

from mooring.connection.begun import Begun
from mooring.connection.host import Host
from mooring.connection.queue import Queued, SendQueue
from mooring.connection.recorded import RecordedConnection
from mooring.connection.sends import Awaited, Sends, Ticket, refused
from mooring.events import KINDS, Kind, now_us
from mooring.kept_events import QueuedRecord, UnsentEvent
from mooring.link.messages_sent import Send, SendFailed, SendQueued, Sent
from mooring.wire.frames import BINARY, TEXT
from mooring.wire.outbound import Outbound


class QueueOwner(Protocol):
    """The connection, as its queue sees it."""

    @property
    def open_outbound(self) -> Outbound | None:
        """Where messages go just now; None: no socket is ready."""

    @property
    def may_queue(self) -> bool:
        """There will be a socket, as far as is known."""

    def queue_changed(self) -> None:
        """The record, and when `due` is to be called, may have changed."""

    def unsent(self, event: UnsentEvent) -> None:
        """Messages were given up."""


class _Behind(msgspec.Struct, frozen=True):
    """Messages of one send that stand behind the queue."""

    ticket: Ticket | Awaited | None
    opcode: int
    payloads: list[bytes]
    size: int
    deadline: float


_NOTHING = QueuedRecord()
_EMPTY = SendQueue()
"""The queue of all connections for which nothing has ever waited: most never have anything."""


def greets(handler: object) -> bool:
    """Say whether a callback of `handler` is told of a ready socket; none of its code runs."""
    names = (KINDS[kind].callback for kind in (Kind.onOpen, Kind.onReconnect))
    return any(inspect.getattr_static(handler, name, None) is not None for name in names)


class QueuedSends(Sends):
    """The messages that are sent on one kept connection.

    Args:
        first_id: The number of the next message that waits.
    """

    __slots__ = ("_begun", "_behind", "_behind_bytes", "_behind_due", "_greetings", "_measured", "_owner", "queue")

    def __init__(self, host: Host, connection: RecordedConnection, owner: QueueOwner, first_id: int = 1) -> None:
        super().__init__(host, connection)
        self._owner = owner
        self._greetings = 0  # callbacks that are told of a ready socket, and have not returned
        self._behind: Sequence[_Behind] = ()
        self._behind_bytes = 0
        self._behind_due = math.inf  # the first of their deadlines
        self.queue = _EMPTY if first_id == 1 else SendQueue(first_id)
        self._measured = _NOTHING
        self._begun: Begun | None = None

    @property
    def waiting(self) -> QueuedRecord:
        """What waits for a socket."""
        return QueuedRecord(self.queue.messages, self.queue.bytes)

    def measure(self) -> None:
        """Bring the worker's figures up to what waits."""
        before, now, metrics = self._measured, self.waiting, self._host.metrics
        metrics.queued_messages += now.messages - before.messages
        metrics.queued_bytes += now.bytes - before.bytes
        self._measured = now

    @property
    def next_due(self) -> float:
        """When `due` is to be called."""
        return min(self.queue.next_expiry, self._behind_due)

    @property
    def _room_bytes(self) -> int:
        outbound = self._owner.open_outbound
        live = 0 if outbound is None else outbound.queued_bytes
        return self._host.settings.outbound_bytes - live - self._behind_bytes

    # What is sent.

    def ttl_s(self, when_down: str | None, ttl_s: float | None) -> float | None:
        """Return for how long a message may wait; None: it may not."""
        options = self._connection.options
        if (when_down or options.when_down) != "queue":
            return None
        return options.queue_ttl_s if ttl_s is None else ttl_s

    def send(self, command: Send, outbound: Outbound | None) -> Sent | SendFailed | SendQueued | None:
        """Write messages for a request, or have them wait: the answer, or None when it comes later."""
        ttl_s = self.ttl_s(command.when_down, command.ttl_s)
        if self._known(command):
            return None
        if ttl_s is not None and (outbound is None or self._greetings) and self._owner.may_queue:
            made = self._add(command.payloads, ttl_s, binary=command.binary, room_bytes=self._room_bytes)
            return self._full(command) if made is None else self._told(command.request, made)
        if outbound is None:
            return refused(command.request, self._connection.refusing)
        if not self.queue.messages:
            return self._write(command, outbound, ttl_s)
        size = sum(map(len, command.payloads))
        if self.queue.bytes + size > self._room_bytes:
            return self._full(command)
        opcode = BINARY if command.binary else TEXT
        ticket = self._ticket(command, ttl_s)
        self._stand_behind(ticket, opcode, command.payloads, size, self._connection.options.send_timeout_s)
        return None

    def send_from_worker(
        self, opcode: int, payload: bytes, outbound: Outbound | None, ttl_s: float | None = None
    ) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand, and was Connected then."""
        ticket = None if ttl_s is None else Ticket(0, None, opcode, [payload], ttl_s)
        if outbound is None:
            self.unwritten(ticket, len(payload), stalled=False)
        elif self.queue.messages and not self._greetings:  # who greets may log in before what waits
            self._stand_behind(ticket, opcode, [payload], len(payload), math.inf)
        elif outbound.write_now(opcode, [payload]):
            self.written(None, 1, len(payload))
        else:
            outbound.queue(ticket, opcode, [payload], len(payload))

    def send_request(self, payload: bytes, outbound: Outbound, ticket: Awaited) -> bool:
        """Write a request: behind what waits, but no longer than this socket lives."""
        if not self.queue.messages:
            return super().send_request(payload, outbound, ticket)
        size = len(payload)
        if self.queue.bytes + size > self._room_bytes:
            return False
        self._stand_behind(ticket, TEXT, [payload], size, self._connection.options.send_timeout_s)
        return True

    def queue_from_worker(self, opcode: int, payload: bytes, ttl_s: float) -> Queued | None:
        """Have one message of code in this worker wait, if it must; None: there is no room."""
        made = self._add([payload], ttl_s, binary=opcode == BINARY, room_bytes=self._room_bytes)
        self.go_on()
        return made

    def _full(self, command: Send) -> SendFailed:
        return SendFailed(command.request, 0, self._connection.state.value, why="full")

    def _add(self, payloads: list[bytes], ttl_s: float, *, binary: bool, room_bytes: float) -> Queued | None:
        if self.queue is _EMPTY:
            self.queue = SendQueue()
        made = self.queue.add(payloads, binary=binary, now=self._host.loop.time(), ttl_s=ttl_s, room_bytes=room_bytes)
        if made is not None:
            self._owner.queue_changed()
        return made

    def _write(self, command: Send, outbound: Outbound, ttl_s: float | None) -> Sent | SendFailed | None:
        answer = super()._write(command, outbound, ttl_s)
        if not isinstance(answer, Sent):
            return answer
        begun = self._begun = self._begun or Begun(self._host, self)
        begun.add(self._ticket(command, None), answer, outbound, self._connection.options.send_timeout_s)
        return None

    def was_sent(self, ticket: Ticket, answer: Sent) -> None:
        """It is in the kernel's hands."""
        self._forget(ticket)
        self._host.answer_send(answer, ticket.key)

    def is_unknown(self, ticket: Ticket, sent: int) -> None:
        """Nobody can say whether it was sent, but for the first messages."""
        self._forget(ticket)
        state = self._connection.state.value
        self._host.answer_send(SendFailed(ticket.request, sent, state, why="uncertain"), ticket.key)

    def _told(self, request: int, made: Queued) -> SendQueued:
        expires_at_us = now_us() + round((made.expires_at - self._host.loop.time()) * 1e6)
        return SendQueued(request, self._host.flush(), made.queued, made.bytes, made.queue_id, expires_at_us)

    def _stand_behind(
        self, ticket: Ticket | Awaited | None, opcode: int, payloads: list[bytes], size: int, timeout_s: float
    ) -> None:
        self._put_behind(_Behind(ticket, opcode, payloads, size, self._host.loop.time() + timeout_s))
        self._owner.queue_changed()

    def _put_behind(self, one: _Behind) -> None:
        if not isinstance(self._behind, list):
            self._behind = []
        self._behind.append(one)
        self._behind_bytes += one.size
        self._behind_due = min(self._behind_due, one.deadline)

    def _take_behind(self) -> Sequence[_Behind]:
        taken, self._behind, self._behind_bytes, self._behind_due = self._behind, (), 0, math.inf
        return taken

    # Whether it can go out.

    def greeting(self) -> None:
        """A socket is ready, and a callback will be told so, which may log in: nothing that waits goes out before it returns."""
        self._greetings += 1

    def greeted(self) -> None:
        """That callback has returned."""
        self._greetings = max(0, self._greetings - 1)
        self.go_on()

    def caught_up(self) -> None:
        """The peer has read all that has waited in its socket (`Sender`)."""
        if self.queue.messages or self._behind:
            self.go_on()

    def go_on(self) -> None:
        """Write what waits, as far as the peer reads."""
        outbound = self._owner.open_outbound
        if outbound is None or self._greetings or not (self.queue.messages or self._behind):
            return
        now = self._host.loop.time()
        while outbound.idle:
            found = self.queue.take(now)
            if found is None:
                break
            outbound.write_now(BINARY if found.binary else TEXT, [found.payload])
            self._count(0, 1, len(found.payload))
        if not self.queue.messages:
            for one in self._take_behind():
                if outbound.write_now(one.opcode, one.payloads):
                    self.written(one.ticket, len(one.payloads), one.size)
                else:
                    outbound.queue(one.ticket, one.opcode, one.payloads, one.size, one.deadline - now)
        self._give_up_expired(now)
        self._owner.queue_changed()

    def due(self, now: float) -> None:
        """The time of something is over."""
        self._give_up_expired(now)
        if self._behind_due > now:
            return
        for one in self._take_behind():
            if one.deadline > now or one.ticket is None:
                self._put_behind(one)
            elif isinstance(one.ticket, Awaited):
                one.ticket.unwritten(True)
            else:
                self._forget(one.ticket)
                self._host.answer(SendFailed(one.ticket.request, 0, self._connection.state.value, why="late"))

    def _give_up_expired(self, now: float) -> None:
        event = self.queue.expire(now)
        if event is not None:
            self._owner.unsent(event)
            self._owner.queue_changed()

    # How the socket ends, and the connection.

    def lost(self) -> None:
        """The socket has ended."""
        if self._begun is not None:
            self._begun.lost()
        self.let_go()

    def let_go(self) -> None:
        """Nothing more is written to the present socket: what stands behind waits for another one, or fails."""
        for one in self._take_behind():
            self.unwritten(one.ticket, one.size, stalled=False)

    def unwritten(self, ticket: Ticket | Awaited | None, size: int, *, stalled: bool) -> None:
        """Messages were not written to this socket (`Sender`)."""
        if isinstance(ticket, Ticket) and ticket.ttl_s is not None and not stalled and self._owner.may_queue:
            self._wait_again(ticket, size)
        else:
            super().unwritten(_told(ticket), size, stalled=stalled)

    def _wait_again(self, ticket: Ticket, size: int) -> None:
        assert ticket.ttl_s is not None, "it may wait"
        self._forget(ticket)
        made = self._add(ticket.payloads, ticket.ttl_s, binary=ticket.opcode == BINARY, room_bytes=math.inf)
        assert made is not None, "room was not asked for"
        if ticket.request:
            self._host.answer_send(self._told(ticket.request, made), ticket.key)
        else:
            self._host.release(self._connection, size)

    def written(self, ticket: Ticket | Awaited | None, count: int, size: int) -> None:
        """Messages were written (`Sender`)."""
        outbound = self._owner.open_outbound
        # What mooring says itself has no request.
        if isinstance(ticket, Ticket) and ticket.request > 0 and outbound is not None:
            answer = self._count(ticket.request, count, size)
            begun = self._begun = self._begun or Begun(self._host, self)
            begun.add(ticket, answer, outbound, self._connection.options.send_timeout_s)
        else:
            super().written(_told(ticket), count, size)


def _told(ticket: Ticket | Awaited | None) -> Ticket | Awaited | None:
    """Return the ticket of whoever is told; code in the worker, which has reserved its room, is not."""
    return None if isinstance(ticket, Ticket) and not ticket.request else ticket
