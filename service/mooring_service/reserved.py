"""Ids for the connections that requests open: reserved in the journal for ever, a block at a time, and before the last block is used up.

So no open waits for one but the first. What is reserved and never used, over a restart, is lost: no id is given out twice.
"""

from __future__ import annotations

import asyncio

from mooring_service.journal.journal import Journal
from mooring_service.processes.reports import ID_BLOCK

LOW = ID_BLOCK // 2  # with so few left the next block is reserved: more than are opened while a commit takes a moment


class ReservedIds:
    """Ids that are reserved, and not given out yet."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reserved: list[int] = []  # the next one last
        self._above = 0  # see `Journal.first_id`
        self._allotting: asyncio.Task[None] | None = None

    @property
    def coming(self) -> int:
        """The id that is given out next; 0: none is reserved yet."""
        return self._reserved[-1] if self._reserved else 0

    async def next(self) -> int:
        """Return an id that nobody else has, or will have.

        Raises:
            JournalUnavailable: If there is none, and none can be reserved now.
        """
        while True:
            if self._above != self._journal.first_id:
                self._reserved.clear()
            if len(self._reserved) <= LOW and (self._allotting is None or self._allotting.done()):
                self._allotting = asyncio.get_running_loop().create_task(self.allot())
                self._allotting.add_done_callback(self._allotted)
            if self._reserved:
                return self._reserved.pop()
            assert self._allotting is not None, "it has just been made"
            await asyncio.shield(self._allotting)

    async def allot(self) -> None:
        """Reserve a further block.

        Raises:
            JournalUnavailable: If it cannot be now.
        """
        first = await self._journal.allot_ids(ID_BLOCK)
        if self._above != self._journal.first_id:
            self._reserved.clear()
        self._above = self._journal.first_id
        self._reserved[:0] = range(first + ID_BLOCK - 1, first - 1, -1)

    def _allotted(self, task: asyncio.Task[None]) -> None:
        if self._allotting is task:
            self._allotting = None
        if not task.cancelled():
            task.exception()  # whoever needs one before the next attempt meets it there

    async def close(self) -> None:
        """Reserve nothing more."""
        if self._allotting is not None:
            self._allotting.cancel()
            await asyncio.gather(self._allotting, return_exceptions=True)
