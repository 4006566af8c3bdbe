"""Which process holds a connection, and takes commands for it."""

from __future__ import annotations

from mooring.errors import Unavailable, WorkerDied
from mooring_service.directory import Entry
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.reopening import Reopenings


class Holders:
    """The way from a connection to its worker."""

    def __init__(self, roster: Roster, reopenings: Reopenings) -> None:
        self._roster = roster
        self._reopenings = reopenings

    def nobody(self, entry: Entry) -> bool:
        """Say whether a kept connection waits for a process of its worker, and none was told of it yet."""
        told = self._reopenings.told(entry.created.id)
        return self._reopenings.waits(entry) and self._roster.by_incarnation(told) is None

    def of(self, entry: Entry) -> Slot:
        """Return the worker that holds a connection, and takes commands.

        Raises:
            WorkerDied: If its process has ended.
            Unavailable: If it is not linked just now.
        """
        slot = self._roster.by_incarnation(entry.incarnation)
        if slot is None:
            raise WorkerDied(entry.created.worker, "it has ended")
        if not slot.welcomed:
            raise Unavailable(f"worker {slot.name!r} is not linked just now")
        return slot
