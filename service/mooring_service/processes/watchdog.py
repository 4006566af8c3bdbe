"""Does a worker still live? The clocks of one process, as a decision. Pure: time comes in as monotonic seconds.

Two rules. A judge that was away itself does not judge: it first reads what has come, and asks again. And while *we* do not read a
worker's link, it cannot prove anything: its deadline stands still, and begins anew once we read.
"""

from __future__ import annotations

import msgspec

AWAY = 2  # a wait of more than so many intervals: we were the ones who were away
SLOW_START = 6  # a start that still works is slow, not dead, for so many times the time that it has


class Ask(msgspec.Struct, frozen=True):
    """Ask it whether it lives."""


class Wait(msgspec.Struct, frozen=True):
    """It cannot be asked just now, and its time is not over."""


class End(msgspec.Struct, frozen=True):
    """End it: `reason`."""

    reason: str


class Watchdog:
    """Judges one process; made when it is started or adopted.

    Args:
        now: Monotonic seconds, as everywhere here.
        interval_s: Whoever looks does so this often.
        connect_s: A process that is not linked must be so within this time.
        answer_s: One that is linked must answer within this time.
    """

    def __init__(self, now: float, *, interval_s: float, connect_s: float, answer_s: float) -> None:
        self._interval_s = interval_s
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._looked_at = now
        self._due_since = now  # what it has to prove, it has to prove since then
        self._linked = False
        self._reading = True
        self._cpu_s = 0.0

    def look(self, now: float, *, heard_at: float, linked: bool, reading: bool, cpu_s: float) -> Ask | Wait | End:
        """Say what is due; call again after an interval.

        Args:
            heard_at: When anything of the process was last read.
            linked: It can be asked.
            reading: We read what it says.
            cpu_s: CPU that it has used; looked at only until it is linked.
        """
        away = now - self._looked_at > AWAY * self._interval_s
        if away or not (reading and self._reading) or linked is not self._linked:
            self._due_since = now
        self._looked_at, self._linked, self._reading = now, linked, reading
        works, self._cpu_s = cpu_s > self._cpu_s, cpu_s
        if linked:
            if heard_at >= self._due_since:
                self._due_since = now  # the question that is asked now
            silent_s = now - self._due_since
            return End(f"it did not answer for {silent_s:.0f} s") if silent_s >= self._answer_s else Ask()
        waited_s = now - max(self._due_since, heard_at)
        if waited_s < self._connect_s or (works and waited_s < SLOW_START * self._connect_s):
            return Wait()
        return End(f"it did not connect for {waited_s:.0f} s")
