"""Who may dial now: the limiter of one worker's redials, per ``host:port``. Pure: time comes in as monotonic seconds.

Jitter spreads a thousand redials over a minute, and still makes hundreds of them meet in a second: all of one process come
from one loss. So each takes a ticket of its host and is served in turn: `rate` a second after `burst` at once, and at most `at_once`
handshakes in flight. The host is that of the URL, not the address: behind a load balancer there is one victim.
A dial that is refused has cost its ticket, too. Waiting costs one entry of one queue, and nobody polls.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from mooring.bounds import RedialLimits

_IDLE_PLACES = 64  # places that nobody waits for are forgotten when there are more than these, and twice those in use


def place_of(host: str, port: int) -> str:
    """Return the name of a place: ``example.com:443``, ``[::1]:80``; in lower case, without the final dot."""
    host = host.lower().rstrip(".").strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


Ticket = TypeVar("Ticket", bound=Hashable)


class _Place(Generic[Ticket]):
    """The tickets of one ``host:port``.

    The rate is kept as the time at which the bucket will be full again (GCRA), not as a level: then the moment at which the
    next one may go is one stored number, and waking up at it is never a rounding error too early.
    """

    __slots__ = ("due", "flying", "full_at", "interval_s", "name", "slack_s", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: OrderedDict[Ticket, None] = (
            OrderedDict()
        )  # not a dict: taking its first again and again is quadratic
        self.flying = 0
        self.full_at = -math.inf
        self.due = math.inf  # of its one valid entry in the heap; infinity: it has none
        self.interval_s = self.slack_s = 0.0

    def limit(self, rate: float, burst: int, now: float) -> None:
        before_s, self.interval_s = self.interval_s, 1 / rate if rate else 0.0
        if (
            before_s and self.full_at > now
        ):  # so many tickets were paid, and none of them holds up longer than it would now
            self.full_at = min(self.full_at, now + (self.full_at - now) / before_s * self.interval_s)
        self.slack_s = self.interval_s * (max(burst, 1) - 1)

    def next_at(self) -> float:
        """When the bucket has a ticket, be it in the past."""
        return self.full_at - self.slack_s if self.interval_s else -math.inf

    def pay(self, now: float) -> None:
        self.full_at = max(self.full_at, now) + self.interval_s


class Redials(Generic[Ticket]):
    """The tickets of all connections of one worker. Whoever holds one is known by its id.

    The owner calls `go` after each change, and at `look_again_at`; it dials for those that `go` returns, and says `done` for each
    once its handshake has ended, however.
    """

    def __init__(self, limits: RedialLimits) -> None:
        self._limits = limits
        self._places: dict[str, _Place[Ticket]] = {}
        self._heap: list[tuple[float, int, _Place[Ticket]]] = []
        self._serial = 0  # two places that are due together are served in the order in which they were entered
        self._waiting: dict[Ticket, _Place[Ticket]] = {}
        self._flying: dict[Ticket, _Place[Ticket]] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def look_again_at(self) -> float:
        """When the next one may go; infinity: only a `done` or a new ticket can change anything."""
        while self._heap and self._heap[0][0] != self._heap[0][2].due:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take(self, ticket: Ticket, place: str, now: float) -> None:
        """Take a ticket of `place` and wait. Who waits there already keeps its turn; who waits elsewhere begins anew here."""
        assert ticket not in self._flying, "one id has one dial: it is told when that has ended"
        held = self._waiting.get(ticket)
        if held is not None and held.name == place:
            return
        self.cancel(ticket)
        entered = self._place(place, now)
        entered.waiting[ticket] = None
        self._waiting[ticket] = entered
        self._enter(entered)

    def take_at_once(self, ticket: Ticket, place: str, now: float) -> None:
        """Take a ticket of `place` and go: the first dial of a connection, for which somebody waits.

        It costs a ticket where there is one; where there is none it goes all the same, and owes nothing: a stream of
        creates must not keep those that were lost from coming back.
        """
        self.cancel(ticket)
        entered = self._place(place, now)
        if not entered.waiting and entered.next_at() <= now:
            entered.pay(now)
        entered.flying += 1
        self._flying[ticket] = entered

    def go(self, now: float) -> list[Ticket]:
        """Return who may dial now, in turn."""
        granted: list[Ticket] = []
        while self.look_again_at <= now:
            entered = heapq.heappop(self._heap)[2]
            entered.due = math.inf
            while entered.waiting and entered.flying < self._limits.at_once and entered.next_at() <= now:
                ticket, _ = entered.waiting.popitem(last=False)
                del self._waiting[ticket]
                entered.pay(now)
                entered.flying += 1
                self._flying[ticket] = entered
                granted.append(ticket)
            self._enter(entered)
        return granted

    def done(self, ticket: Ticket) -> None:
        """The handshake of `ticket` has ended. Idempotent; unknown ones are ignored."""
        entered = self._flying.pop(ticket, None)
        if entered is not None:
            entered.flying -= 1
            self._enter(entered)

    def cancel(self, ticket: Ticket) -> None:
        """`ticket` waits no more. Idempotent; for one that dials already, see `done`."""
        entered = self._waiting.pop(ticket, None)
        if entered is not None:
            del entered.waiting[ticket]

    def configure(self, limits: RedialLimits, now: float) -> None:
        """Go on with other limits: nobody loses its turn; what was paid holds up no longer than at the new rate, and a slower one begins with the next."""
        self._limits = limits
        for entered in self._places.values():
            entered.limit(*limits.of(entered.name), now)
            self._enter(entered)

    def _place(self, name: str, now: float) -> _Place[Ticket]:
        found = self._places.get(name)
        if found is None:
            if len(self._places) >= _IDLE_PLACES + 2 * (len(self._waiting) + len(self._flying)):
                # A place whose bucket is full is as good as a new one.
                self._places = {
                    key: one
                    for key, one in self._places.items()
                    if one.waiting or one.flying or (one.full_at > now and one.interval_s)
                }
            found = self._places[name] = _Place(name)
            found.limit(*self._limits.of(name), now)
        return found

    def _enter(self, entered: _Place[Ticket]) -> None:
        """Have the heap say when somebody of `entered` may go; not at all while its handshakes in flight are too many.

        An entry that has become too early stays: `go` finds out, and enters it anew. So there is one entry a place.
        """
        if entered.waiting and entered.flying < self._limits.at_once and entered.next_at() < entered.due:
            entered.due = entered.next_at()
            self._serial += 1
            heapq.heappush(self._heap, (entered.due, self._serial, entered))
