"""The clock and the turns of the connections that wait: alarms and the limiter (`redial`), with one timer for all of them.

Ten thousand that wait for a server cost no task, no timer and no poll: an entry of a heap each. On the I/O loop only.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from urllib.parse import urlsplit

from mooring.bounds import RedialLimits
from mooring.connection.host import Redialler
from mooring.process.redial import Redials, place_of

SPARE_ENTRIES = 64  # entries of the heap that nothing stands for any more: it is made anew above these, and half of it


class Redialling:
    """The alarms and turns of one worker; `connection/host.RedialTurns` says what each verb means."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: RedialLimits) -> None:
        self._loop = loop
        self._redials: Redials[Redialler] = Redials(limits)
        self._alarms: dict[Redialler, float] = {}
        self._heap: list[tuple[float, int, Redialler]] = []
        self._granted: dict[Redialler, None] = {}  # whose turn it is, and who has not been told yet
        self._serial = 0
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf

    def alarm(self, who: Redialler, at: float) -> None:
        """Call `who.due` at `at`, and not at the time said before; infinity: never."""
        if at == math.inf:
            self._alarms.pop(who, None)
            return
        if self._alarms.get(who) == at:
            return
        self._alarms[who] = at
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, who))
        if len(self._heap) > SPARE_ENTRIES + 2 * len(self._alarms):
            self._heap = [entry for entry in self._heap if self._alarms.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        self._set_timer()

    def take(self, who: Redialler, url: str) -> None:
        """Have `who` wait for its turn to dial the host of `url`: it is `granted`, perhaps at once."""
        self._redials.take(who, _place_of(url), self._loop.time())
        self._set_timer()

    def take_at_once(self, who: Redialler, url: str) -> None:
        """Count the dial of `who`, which does not wait."""
        self._redials.take_at_once(who, _place_of(url), self._loop.time())

    def done(self, who: Redialler) -> None:
        """The handshake of `who` has ended."""
        self._redials.done(who)
        self._set_timer()

    def cancel(self, who: Redialler) -> None:
        """`who` wants nothing any more. Idempotent."""
        self._alarms.pop(who, None)
        self._granted.pop(who, None)
        self._redials.cancel(who)
        self.done(who)

    def configure(self, limits: RedialLimits) -> None:
        """Go on with other limits."""
        self._redials.configure(limits, self._loop.time())
        self._set_timer()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._redials.waiting

    def _set_timer(self) -> None:
        while self._heap and self._alarms.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        self._look_at(min(self._heap[0][0] if self._heap else math.inf, self._redials.look_again_at))

    def _look_at(self, at: float) -> None:
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._run)

    def _run(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time()
        try:
            while self._heap and self._heap[0][0] <= now:
                at, _, who = heapq.heappop(self._heap)
                if self._alarms.get(who) == at:
                    del self._alarms[who]
                    who.due(now)
            self._granted.update(dict.fromkeys(self._redials.go(now)))
            for who in list(self._granted):
                if self._granted.pop(who, self) is None:  # it was not cancelled by one of the others
                    self._grant(who)
        finally:  # one that raises holds up nobody else
            self._set_timer()
            if self._granted:
                self._look_at(now)

    def _grant(self, who: Redialler) -> None:
        try:
            who.granted()
        except BaseException:
            self._redials.done(who)  # its dial has not begun, so nobody else would give its turn back
            raise


def _place_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a template whose values are not known yet: all of these share one limit until they are
        return place_of("", 0)
    return place_of(parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "wss" else 80))
