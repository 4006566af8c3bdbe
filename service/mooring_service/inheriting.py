"""What workers of other nodes have left, as the log tells of it, becomes this service's: ends are told, what persists is opened again.

It writes into the own journal, in the name of nobody's process. That this node is the heir was decided before; knows no engine and no log.
"""

from __future__ import annotations

import asyncio
import logging

from mooring.errors import ErrCode, InvalidRequest, MooringError
from mooring.link.packed import unpack
from mooring_service.admission import Admission
from mooring_service.columns import joined
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal
from mooring_service.processes.roster import Roster
from mooring_service.processes.supervisor import Supervisor
from mooring_service.reopening import BATCH, Reopenings, losses

REASON = "the node that held it is gone"
DEADLY = "the nodes that ran it have died one after the other"

log = logging.getLogger("mooring.service")


class Inheriting:
    """This service as an heir.

    Args:
        settled: Set once what an earlier service has left here is adopted, and told.

    Attributes:
        of_all: The connections of all nodes; set before anything is asked.
        blocked: Workers that were taken over and cannot run here, and why.
    """

    of_all: Directory

    def __init__(
        self,
        admission: Admission,
        journal: Journal,
        directory: Directory,
        endings: Endings,
        reopenings: Reopenings,
        roster: Roster,
        supervisor: Supervisor,
        settled: asyncio.Event,
    ) -> None:
        self._admission = admission
        self._journal = journal
        self._directory = directory
        self._endings = endings
        self._reopenings = reopenings
        self._roster = roster
        self._supervisor = supervisor
        self._settled = settled
        self.blocked: dict[str, str] = {}
        reopenings.keeps_back = self._keeps_back

    def is_left(self, worker: str) -> bool:
        """Say whether connections of a worker have not ended."""
        return self.of_all.live_count_of(worker) > 0

    def could_have(self, worker: str) -> bool:
        """Say whether this service could make what persists of them."""
        return self._wrong(worker) is None

    def _wrong(self, worker: str) -> str | None:
        specs = [entry for entry in self.of_all.live_of(worker) if entry.created.spec is not None]
        own = {entry.created.id for entry in self._directory.live_of(worker)}
        return self._full(worker, sum(entry.created.id not in own for entry in specs)) or self._unmakeable(specs)

    def _keeps_back(self, worker: str) -> bool:
        """Say whether what waits of a worker is `blocked`: what came from other nodes by this node's bounds, too."""
        live = self._directory.live_of(worker)
        waiting = [entry for entry in live if entry.created.spec is not None and self._reopenings.waits(entry)]
        wrong = (self._full(worker, 0) if any(map(_is_inherited, waiting)) else None) or self._unmakeable(waiting)
        if wrong is None:
            self.blocked.pop(worker, None)
        elif self.blocked.get(worker) != wrong:
            self.blocked[worker] = wrong
            log.error("what persists of worker %s waits here: %s", worker, wrong, extra={"worker": worker})
        return wrong is not None

    def _full(self, worker: str, more: int) -> str | None:
        if self._admission.full_at(self._directory.live_count + more - 1):
            return "limits.max_connections leaves no room"
        if not self._roster.has_room(worker):
            return "limits.max_workers leaves no room"
        return None

    def _unmakeable(self, specs: list[Entry]) -> str | None:
        seen: set[tuple[bytes, str]] = set()  # of thousands most are alike
        for entry in specs:
            what = entry.created.spec or b"", entry.created.url
            if what in seen:
                continue
            seen.add(what)
            try:
                assert entry.created.spec is not None, "selected by it"
                spec = unpack(entry.created.spec, entry.created.url)
                if spec.handler is not None:
                    self._admission.handler(spec.handler.name)
                self._admission.check_way(spec)
            except InvalidRequest as exc:
                return f"connection {entry.created.id}: {'; '.join(one.detail for one in exc.errors)}"
            except MooringError as exc:
                return f"connection {entry.created.id}: {exc}"
        return None

    async def take(self, worker: str) -> bool:
        """Tell what became of the connections of a worker.

        Returns:
            Whether something persists.

        Raises:
            JournalUnavailable: If it cannot be written now.
        """
        own = {entry.created.id for entry in self._directory.live_of(worker)}
        left = [entry for entry in self.of_all.live_of(worker) if entry.created.id not in own]
        staying: list[Entry] = []
        lost: list[Entry] = []
        for index, entry in enumerate(left, 1):
            if not index % BATCH:
                await asyncio.sleep(0)  # there may be thousands
            if entry.created.spec is not None:
                self._reopenings.remember(entry.created.id, unpack(entry.created.spec, entry.created.url))
            (staying if self._reopenings.stays(entry) else lost).append(entry)
        for begin in range(0, len(lost), BATCH):
            entries = lost[begin : begin + BATCH]
            await self._endings.write(entries, REASON, ErrCode.NODE_LOST, then=_created(worker, entries), error=True)
        for begin in range(0, len(staying), BATCH):
            entries = staying[begin : begin + BATCH]
            down = losses(entries, REASON, ErrCode.NODE_LOST, "nodeLost")
            await self._journal.append_waiting(joined(down, _created(worker, entries)))
        return bool(staying or own)

    def stand_failed(self, worker: str) -> None:
        """Have a worker Failed, as the nodes that ran it have died, unless it runs here: somebody has started it then."""
        self._supervisor.stand_failed(worker, DEADLY)

    async def open(self, worker: str) -> None:
        """Open again what persists of a worker, if it can be here, once a process of it runs."""
        if not self._reopenings.due(worker):
            return
        try:
            slot = await self._supervisor.ensure(worker)
            await self._reopenings.open_again(slot)
        except MooringError as exc:
            log.warning("what persists of worker %s waits for it: %s", worker, exc, extra={"worker": worker})

    async def go_on(self) -> None:
        """Open again what waits here for a process, or was not told to one."""
        for worker in sorted(self._directory.workers()):
            if any(map(self._reopenings.waits, self._reopenings.due(worker))):
                await self.open(worker)

    async def open_blocked(self) -> None:
        """Open what could not be opened here, where that has changed."""
        for worker in list(self.blocked):
            if not self._keeps_back(worker):
                await self.open(worker)

    async def end_all(self) -> None:
        """End all that this service holds, and wait until that is committed: none of it is this service's any more."""
        await self._settled.wait()  # what an earlier service has left
        await self._supervisor.end_all("this node was declared lost")
        for worker in sorted(self._directory.workers()):
            live = self._directory.live_of(worker)
            for begin in range(0, len(live), BATCH):
                await self._endings.write(live[begin : begin + BATCH], REASON, ErrCode.NODE_LOST)
        self.blocked.clear()
        await self._journal.append_waiting(Append())


def _is_inherited(entry: Entry) -> bool:
    """Say whether a connection that waits here was another node's when it was lost."""
    down = None if entry.update.kept is None else entry.update.kept.down
    return down is not None and any(error.err_code == ErrCode.NODE_LOST for error in down.errors)


def _created(worker: str, entries: list[Entry]) -> Append:
    return Append(worker=worker, created=[entry.created for entry in entries])
