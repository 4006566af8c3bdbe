"""The mailbox of a worker: what waits for the context, in order, and within bounds.

The I/O loop puts in, the context takes out. Two writers never share a counter: what was put is counted by the one, what
was taken by the other. Nothing here runs user code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from mooring.connection.recorded import RecordedConnection
from mooring.events import Kind
from mooring.link.messages import Call

CALL_COST_BYTES = 1024  # what a call counts for in the bounds of the queues on its way, besides its parameters

_pack = msgspec.msgpack.Encoder().encode


class Messages(msgspec.Struct, frozen=True):
    """The messages of one read, or those that a callback has `filled`: ``(data, payload)`` each."""

    connection: RecordedConnection
    items: list[tuple[Any, bytes]]
    filled: bool = False


class Lifecycle(msgspec.Struct, frozen=True):
    """An event of a connection that is not a message."""

    connection: RecordedConnection
    kind: Kind
    event: msgspec.Struct


class Task(msgspec.Struct, frozen=True):
    """Work of mooring itself that must run where user code runs (making a handler).

    Neither `run` nor what it returns to be awaited may raise.
    """

    name: str
    run: Callable[[], Awaitable[None] | None]


Entry = Messages | Lifecycle | Task | Call


class Mailbox:
    """What waits for the context.

    Args:
        on_first: Called when something was put in while the context was idle.

    Attributes:
        entries: What waits. The context takes from its front, and may put back there what it could not end.
        idle: Set by the context before it waits.
        taken, taken_bytes: Items and payload bytes that the context has taken; counted by it.
        calls_ended: Calls that have run, or will not; counted by it.
    """

    def __init__(self, max_items: int, max_bytes: int, on_first: Callable[[], None]) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._on_first = on_first
        self.entries: deque[Entry] = deque()
        self.idle = False
        self._was_full = False
        self.taken = self.taken_bytes = 0
        self.calls_ended = 0
        self._put = self._put_bytes = 0
        self._calls_put = self._calls_taken = 0
        self._calls_put_bytes = self._calls_taken_bytes = 0

    @property
    def length(self) -> int:
        """Items waiting."""
        return self._put - self.taken

    @property
    def length_bytes(self) -> int:
        """Payload bytes waiting."""
        return self._put_bytes - self.taken_bytes

    @property
    def full(self) -> bool:
        """True when the sockets that feed the mailbox must wait; once it was, `has_room_again` will say so."""
        if self.length < self._max_items and self.length_bytes < self._max_bytes:
            return False
        self._was_full = True
        # Again: what was taken between the two lines has told nobody that there is room.
        return self.length >= self._max_items or self.length_bytes >= self._max_bytes

    def has_room_again(self) -> bool:
        """Say, once, that half of a mailbox that was full is empty. For the context."""
        if not self._was_full or self.length > self._max_items // 2 or self.length_bytes > self._max_bytes // 2:
            return False
        self._was_full = False  # who still finds it full sets it again
        return True

    @property
    def calls(self) -> int:
        """Calls that wait, or run."""
        return self._calls_put - self.calls_ended

    @property
    def full_of_calls(self) -> bool:
        """True when a further call is refused. Messages do not count: a flood must not shut out who would end it."""
        return (
            self._calls_put - self._calls_taken >= self._max_items
            or self._calls_put_bytes - self._calls_taken_bytes >= self._max_bytes
        )

    def post(self, connection: RecordedConnection, kind: Kind, event: msgspec.Struct) -> None:
        """Put in an event that is not a message (`Deliveries`)."""
        self._put += 1
        self._append(Lifecycle(connection, kind, event))

    def post_messages(
        self, connection: RecordedConnection, items: list[tuple[Any, bytes]], size: int, *, filled: bool = False
    ) -> None:
        """Put in the messages of one read, or those that were fetched (`Deliveries`)."""
        connection.posted += len(items)
        connection.posted_bytes += size
        self._put += len(items)
        self._put_bytes += size
        self._append(Messages(connection, items, filled))

    def post_call(self, call: Call) -> None:
        """Put in a call."""
        size = _call_bytes(call)
        self._put += 1
        self._put_bytes += size
        self._calls_put += 1
        self._calls_put_bytes += size
        self._append(call)

    def post_task(self, task: Task) -> None:
        """Put in work of mooring itself."""
        self._put += 1
        self._append(task)

    def _append(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self.idle:
            self.idle = False
            self._on_first()

    def put_first(self, connection: RecordedConnection, items: list[tuple[Any, bytes]]) -> None:
        """Put what a callback has filled before all that waits. For the context."""
        if not items:
            return
        # It waits, and the I/O loop has not put it in: so it is counted as given back.
        size = sum(len(payload) for _, payload in items)
        self.taken -= len(items)
        self.taken_bytes -= size
        connection.taken -= len(items)
        connection.taken_bytes -= size
        self.entries.appendleft(Messages(connection, items, filled=True))

    def took_call(self, call: Call) -> None:
        """The context has taken a call."""
        size = _call_bytes(call)
        self.taken += 1
        self.taken_bytes += size
        self._calls_taken += 1
        self._calls_taken_bytes += size


def _call_bytes(call: Call) -> int:
    return CALL_COST_BYTES + len(_pack(call.params))
