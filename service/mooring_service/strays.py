"""What an earlier service has left without a process: connections that end now, and those that are opened again, as they persist."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from mooring.errors import ErrCode, MooringError
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.journal.journal import Journal
from mooring_service.processes.roster import Roster
from mooring_service.processes.supervisor import Supervisor
from mooring_service.reconciling import Reconciling
from mooring_service.reopening import Reopenings, losses

log = logging.getLogger("mooring.service")


class Strays:
    """Looks after them at the start.

    Attributes:
        settled: Set once what there is was adopted, and told.
    """

    def __init__(
        self,
        journal: Journal,
        directory: Directory,
        endings: Endings,
        reopenings: Reopenings,
        roster: Roster,
        supervisor: Supervisor,
        reconciling: Reconciling,
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._endings = endings
        self._reopenings = reopenings
        self._roster = roster
        self._supervisor = supervisor
        self._reconciling = reconciling
        self._workers: list[str] = []  # of what is to be opened again
        self.settled = asyncio.Event()

    async def settle(self, known: set[str]) -> None:
        """End those whose process is known to have ended: a double death. Those that persist are down, and their workers returned.

        Args:
            known: The incarnations that may be alive.
        """
        for name in sorted(self._directory.workers()):
            strays = [entry for entry in self._directory.live_of(name) if entry.incarnation not in known]
            lost: list[Entry] = []
            staying: list[Entry] = []
            for entry in strays:
                (staying if self._reopenings.stays(entry) else lost).append(entry)
            reason = "the worker ended while the service was away"
            await self._endings.write(lost, reason, ErrCode.WORKER_DIED)
            fallen = [entry for entry in staying if not self._reopenings.waits(entry)]
            if fallen:
                await self._journal.append_waiting(losses(fallen, reason, ErrCode.WORKER_DIED, "serviceRestarted"))
            if staying:
                self._workers.append(name)
        self.settled.set()

    async def bring_back(self, placed: Awaitable[None] | None) -> None:
        """Have what waits for a process of its worker opened again (of a Failed one, once somebody starts it), and what is declared.

        The processes that there are come first: what they say of what they hold is the truth. `placed`, in a cluster, ends when no other
        node can have opened it.
        """
        if placed is not None:
            await placed
        for name in list(self._roster.adopting):
            await self._supervisor.wait_adopted(name)
        await asyncio.gather(self._reconciling.reconcile(), *map(self._bring_back, self._workers))

    async def _bring_back(self, name: str) -> None:
        if not self._reopenings.due(name):
            return  # they have ended meanwhile, or cannot be opened here now
        try:
            slot = await self._supervisor.ensure(name)
            await self._reopenings.open_again(slot)  # a process that was adopted is not told by itself
        except MooringError as exc:
            log.warning("what persists of worker %s waits for it: %s", name, exc, extra={"worker": name})
