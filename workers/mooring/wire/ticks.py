"""Timers of very many that need not be exact: those that are due at nearly the same time share a timer, and a pass of the loop.

An idle connection costs a wake-up of the process for each ping and for each look whether it was answered; a hundred that
are pinged in one pass cost as much, and their pongs come together, too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

SHARE = 256  # a timer is late by no more than one part in so many of the wait
GRAIN_S = 1 / 16  # and no more than this
PASS = 250  # so many are called in one pass of the loop: a few milliseconds


class Handle(Protocol):
    """A timer that can be cancelled."""

    def cancel(self) -> None:
        """Do not call any more."""


class Clock(Protocol):
    """What `Pulse` asks of a loop; `Ticks` gives the same."""

    def time(self) -> float:
        """Return monotonic seconds."""

    def call_at(self, when: float, callback: Callable[[], None], /) -> Handle:
        """Call `callback` at `when`."""


class Ticks:
    """A `Clock` whose timers are shared. On the I/O loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.time = loop.time
        self._ticks: dict[float, dict[Ticket, None]] = {}

    def call_at(self, when: float, callback: Callable[[], None], /) -> Handle:
        """Call `callback` at `when`, or a little later."""
        at = tick_of(when, when - self.time())
        tick = self._ticks.get(at)
        if tick is None:
            tick = self._ticks[at] = {}
            self._loop.call_at(at, self._run, at)
        ticket = Ticket(tick, callback)
        tick[ticket] = None
        return ticket

    def _run(self, at: float) -> None:
        tick = self._ticks[at]
        try:
            for ticket in list(tick)[:PASS]:
                if tick.pop(ticket, self) is None:  # it was not cancelled by one of the others
                    ticket.callback()
        finally:  # one that raises ends no tick: nobody who waits for it, or joins it later, would ever be called
            if tick:
                self._loop.call_soon(self._run, at)
            else:
                del self._ticks[at]


class Ticket:
    """One who waits for a tick."""

    __slots__ = ("_tick", "callback")

    def __init__(self, tick: dict[Ticket, None], callback: Callable[[], None]) -> None:
        self._tick = tick
        self.callback = callback

    def cancel(self) -> None:
        """Do not call any more."""
        self._tick.pop(self, None)


def tick_of(when: float, wait_s: float) -> float:
    """Return the tick that serves who waits `wait_s` until `when`: never earlier, and the same for all that wait about as long."""
    grain_s = min(GRAIN_S, 2.0 ** math.floor(math.log2(max(wait_s, 0.001) / SHARE)))
    return math.ceil(when / grain_s) * grain_s
