"""What workers are told of their events that are stored, and what they may: how much of their events may be on its way to the journal (back-pressure for events, and for nothing else on
the link), and whether code in them may open connections.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

from mooring_service.admission import Admission
from mooring_service.directory import Directory
from mooring_service.journal.journal import Journal
from mooring_service.passes import Passes
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import WINDOW_SINCE, Slot

QUEUE_HIGH_BYTES = (
    64 * 1024 * 1024
)  # the journal's queue: parted among the workers, as what each may have on its way to it
WINDOW_MIN_BYTES = 1024 * 1024  # but no less than a frame
FOLLOW_S = 0.002  # who sends nothing within this has nothing to send
TELL_S = 0.004  # under load, workers are told so often that their events are stored
TELL_MAX_S = 0.016  # where many subscribers are shown something less often: below what a worker waits for that (`handing_over.HOLD_S`)
AHEAD_S = 0.0015  # so long before the next pass over the subscribers: what is sent then is committed when it begins


class Window:
    """Parts the journal's queue among the workers; who keeps to no part is not read while it is full."""

    def __init__(self, journal: Journal, roster: Roster, directory: Directory, admission: Admission) -> None:
        self._journal = journal
        self._roster = roster
        self._directory = directory
        self._admission = admission
        self._links_paused = False
        self._told_full_at = 0
        self._stored: dict[Slot, None] = {}  # who is to be told
        self._told_at = -math.inf
        self._every_s = TELL_S
        self._telling: asyncio.Handle | None = None
        self._telling_at = math.inf  # loop time; a handle of what is due already does not know it
        self._follow: dict[Slot, None] = {}  # who has been told with others, and has not sent anything since

    @property
    def bounds(self) -> tuple[int, int]:
        """What a worker is told: bytes of its events that may be on their way; ``limits.max_connections`` while it is reached, else 0."""
        return self.size, self._admission.full_at(self._directory.live_count)

    def acknowledge(self, slots: Iterable[Slot] = (), scattered: Passes | None = None) -> None:
        """Tell the workers of which events were stored; and all of them, if no further connections may be opened, or may again.

        A worker sends what comes meanwhile once it is told. So under load (what was stored is `scattered`: the passes in which it is
        shown) it is told a little behind the last time, with all others: what they send then comes at one time, and is one commit.
        Where passes are further apart, it comes just before one: a commit between two would be shown no earlier. Only that waits,
        never what is stored, nor that there is room no more, or again.
        """
        self._stored.update(dict.fromkeys(slots))
        if self._admission.full_at(self._directory.live_count) != self._told_full_at:
            self._tell()  # at once: what code in workers opens before it hears of that comes on top
            return
        loop = asyncio.get_running_loop()
        if self._telling is not None:
            soon = self._told_at + TELL_S
            if scattered is None and self._telling_at > soon:  # a flood waits for no pass
                self._telling.cancel()
                self._every_s = TELL_S
                self._tell_at(soon)
            return
        pause_s = scattered.pause_s if scattered is not None else 0.0
        self._every_s = max(TELL_S, min(TELL_MAX_S, pause_s))
        if scattered is None or loop.time() >= self._told_at + self._every_s:
            self._tell()
            return
        at = self._told_at + TELL_S
        if pause_s:
            before = scattered.due_s - AHEAD_S
            at = min(before if before >= at else max(at, before + pause_s), self._told_at + TELL_MAX_S)
        self._tell_at(at)

    def _tell_at(self, at: float) -> None:
        self._telling, self._telling_at = asyncio.get_running_loop().call_at(at, self._tell_all), at

    def _tell_all(self) -> None:
        self._telling = None
        self._follow = dict(self._stored)
        self._tell(int(self._every_s * 1e6))

    def _tell(self, next_us: int = 0) -> None:
        self._told_at = asyncio.get_running_loop().time()
        slots: Iterable[Slot]
        slots, self._stored = self._stored, {}
        bounds = self.bounds
        if bounds[1] != self._told_full_at:
            self._told_full_at, slots = bounds[1], self._roster.slots()
        for slot in slots:
            slot.acknowledge(*bounds, next_us)

    @property
    def size(self) -> int:
        """Bytes of a worker's events that may be on their way."""
        return max(WINDOW_MIN_BYTES, QUEUE_HIGH_BYTES // max(1, len(self._roster)))

    def others_follow(self, slot: Slot) -> bool:
        """Take that a worker has sent events; say whether others will, that were told at the same time."""
        follow = self._follow
        if not follow:
            return False
        follow.pop(slot, None)
        if follow and asyncio.get_running_loop().time() > self._told_at + FOLLOW_S:
            follow.clear()
        return bool(follow)

    def queued(self, slot: Slot, size: int) -> None:
        """Events of a worker are in the journal's queue."""
        slot.unstored_bytes += size
        if self._journal.queued_bytes > QUEUE_HIGH_BYTES and slot.unstored_bytes > self._allowed_bytes(slot):
            slot.pause_reading()
            self._links_paused = True

    def stored(self, slot: Slot, size: int) -> None:
        """Events of a worker are no longer in the queue."""
        slot.unstored_bytes -= size

    def go_on(self) -> None:
        """Something was committed: read again whom we did not read, if there is room."""
        if self._links_paused and self._journal.queued_bytes < QUEUE_HIGH_BYTES // 2:
            self._links_paused = False
            for slot in self._roster.slots():
                slot.resume_reading()

    def _allowed_bytes(self, slot: Slot) -> int:
        """Above this it does not keep to a window: it is of an older program, or somebody else speaks in its name."""
        # Twice: it counts frames where we count what is in them, and may have heard of a larger window last.
        return 2 * self.size + 2 * WINDOW_MIN_BYTES if slot.version >= WINDOW_SINCE else 0
