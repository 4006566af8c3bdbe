"""What an earlier service has left without a process: connections that end now, and those that are opened again, as they persist."""

from __future__ import annotations

import asyncio
import logging

from mooring.errors import ErrCode, MooringError
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.journal.journal import Journal
from mooring_service.processes.supervisor import Supervisor
from mooring_service.reopening import Reopenings, losses

log = logging.getLogger("mooring.service")


class Strays:
    """Looks after them at the start."""

    def __init__(
        self,
        journal: Journal,
        directory: Directory,
        endings: Endings,
        reopenings: Reopenings,
        supervisor: Supervisor,
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._endings = endings
        self._reopenings = reopenings
        self._supervisor = supervisor

    async def settle(self, known: set[str]) -> list[str]:
        """End those whose process is known to have ended: a double death. Those that persist are down, and their workers returned.

        Args:
            known: The incarnations that may be alive.
        """
        workers = []
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
                workers.append(name)
        return workers

    async def bring_back(self, workers: list[str]) -> None:
        """Have what waits for a process of these workers opened again; of a Failed one, once somebody starts it."""
        await asyncio.gather(*map(self._bring_back, workers))

    async def _bring_back(self, name: str) -> None:
        try:
            await self._supervisor.wait_adopted(name)
            slot = await self._supervisor.ensure(name)
            await self._reopenings.open_again(slot)  # a process that was adopted is not told by itself
        except MooringError as exc:
            log.warning("what persists of worker %s waits for it: %s", name, exc, extra={"worker": name})
