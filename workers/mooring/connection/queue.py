"""What waits to be sent while a kept connection is down (``whenDown: "queue"``). Pure: time comes in as monotonic seconds.

Each message has a number that counts up for the life of the id, and a time after which it must not be sent any more: an order that
is minutes old does harm. What is taken out to be written never comes back: a frame once begun is not sent again. What is not
sent is told of, once, in an `UnsentEvent`.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from mooring.kept_events import UnsentEvent, UnsentMessage, UnsentReason

MAX_MESSAGES = 65_536  # the bound in bytes says nothing of empty messages
SHOWN_BYTES = 64 * 1024  # payloads in one `UnsentEvent`: the journal is no second queue


class Waiting(msgspec.Struct, frozen=True):
    """One message that waits."""

    queue_id: int
    payload: bytes
    binary: bool
    expires_at: float


class Queued(msgspec.Struct, frozen=True):
    """The answer to a request whose messages wait now: how many, their bytes, and the number of the first."""

    queued: int
    bytes: int
    queue_id: int
    expires_at: float


class SendQueue:
    """The messages of one connection, in order.

    Args:
        first_id: The number of the first message; higher than 1 where a worker that died had counted before.
    """

    __slots__ = ("_by_expiry", "_lapsed", "_messages", "_next_id", "bytes")

    def __init__(self, first_id: int = 1) -> None:
        self._next_id = first_id
        self._messages: OrderedDict[int, Waiting] = OrderedDict()
        self._by_expiry: list[tuple[float, int]] = []
        self._lapsed: list[Waiting] = []  # found too old when their turn came, and not yet told of
        self.bytes = 0

    @property
    def messages(self) -> int:
        """How many wait."""
        return len(self._messages)

    @property
    def last_id(self) -> int:
        """The number of the last message; 0: there was none."""
        return self._next_id - 1

    @property
    def next_expiry(self) -> float:
        """When `expire` is due; infinity: nothing waits."""
        if self._lapsed:
            return -math.inf
        while self._by_expiry and self._by_expiry[0][1] not in self._messages:
            heapq.heappop(self._by_expiry)
        return self._by_expiry[0][0] if self._by_expiry else math.inf

    def add(
        self, payloads: Sequence[bytes], *, binary: bool, now: float, ttl_s: float, room_bytes: float
    ) -> Queued | None:
        """Have the messages of one request wait, all or none.

        Args:
            room_bytes: What this queue may hold in all: the connection's bound, less what its live queue holds. Infinity:
                they wait whatever there is, since they have waited already.

        Returns:
            None where there is no room (``queue-full``).
        """
        size = sum(map(len, payloads))
        too_many = len(self._messages) + len(payloads) > MAX_MESSAGES and room_bytes != math.inf
        if too_many or self.bytes + size > room_bytes:
            return None
        first, expires_at = self._next_id, now + ttl_s
        for payload in payloads:
            self._messages[self._next_id] = Waiting(self._next_id, payload, binary, expires_at)
            heapq.heappush(self._by_expiry, (expires_at, self._next_id))
            self._next_id += 1
        self.bytes += size
        return Queued(len(payloads), size, first, expires_at)

    def take(self, now: float) -> Waiting | None:
        """Take out the next message, to be written now; None: none is left. Those too old are left to `expire`."""
        while self._messages:
            _, found = self._messages.popitem(last=False)
            self.bytes -= len(found.payload)
            if found.expires_at > now:
                return found
            self._lapsed.append(found)
        self._by_expiry.clear()  # nothing in it is left
        return None

    def expire(self, now: float) -> UnsentEvent | None:
        """Give up what is too old at `now`: one `UnsentEvent` for all of it, or None."""
        gone, self._lapsed = self._lapsed, []
        while self.next_expiry <= now:
            found = self._messages.pop(heapq.heappop(self._by_expiry)[1])
            self.bytes -= len(found.payload)
            gone.append(found)
        return _unsent("expired", sorted(gone, key=lambda one: one.queue_id))

    def give_up(self, reason: UnsentReason) -> UnsentEvent | None:
        """Give up everything: one `UnsentEvent`, or None where nothing waits."""
        gone = [*self._lapsed, *self._messages.values()]
        self._lapsed = []
        self._messages.clear()
        self._by_expiry.clear()
        self.bytes = 0
        return _unsent(reason, gone)


def _unsent(reason: UnsentReason, gone: Iterable[Waiting]) -> UnsentEvent | None:
    count = size = 0
    shown: list[UnsentMessage] = []
    for one in gone:
        count += 1
        size += len(one.payload)
        if size <= SHOWN_BYTES:
            # What was to be a text frame was checked when it was accepted; should it not be UTF-8, it is shown all the same.
            shown.append(
                UnsentMessage(one.queue_id, one.payload, "base64")
                if one.binary
                else UnsentMessage(one.queue_id, one.payload.decode(errors="replace"))
            )
    return UnsentEvent(reason=reason, count=count, bytes=size, messages=shown) if count else None
