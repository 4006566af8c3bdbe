"""Who takes over the workers of a life that is over, and when: in order, until a claim is granted; then what they held is told, and opened.

The order only spares conflicts: the log decides. What is told of connections, and how they are opened, is the estate's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from mooring.background import Background
from mooring.errors import MooringError
from mooring_service.cluster.claims import KEPT_TAKEOVERS, TOLD, Holder
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.lives import ranked
from mooring_service.cluster.placement import Placement
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.journal import Journal

NEXT_S = 2.0  # between one heir and the next
AGAIN_S = 1.0
CATCH_UP_S = 10.0
BLOCKED_S = 5.0  # so often it is looked whether what could not be opened here can be
DEADLY_S = 600.0  # a worker whose node has died three times within this is not started again: it may be what kills them

log = logging.getLogger("mooring.cluster")


class Estate(Protocol):
    """What the workers of nodes hold, as the log tells of it, and how this service takes it over."""

    def is_left(self, worker: str) -> bool:
        """Say whether connections of a worker have not ended."""

    def could_have(self, worker: str) -> bool:
        """Say whether this service could make them."""

    async def take(self, worker: str) -> bool:
        """Tell what became of them; return whether something persists.

        Raises:
            MooringError: If it cannot be told now; it is begun anew then.
        """

    async def open(self, worker: str) -> None:
        """Open again what persists of them, however long a process takes to start."""

    def stand_failed(self, worker: str) -> None:
        """Have a worker Failed, unless it runs here."""

    async def go_on(self) -> None:
        """Open again what this service has lost while it could not know whether others had it."""

    async def open_blocked(self) -> None:
        """Open what was taken over and could not be opened here, where that has changed."""

    async def end_all(self) -> None:
        """End all that this service holds, as its life is over, and wait until that is committed."""


class Heirs:
    """This node as an heir.

    Args:
        shown: Waits until all that the log holds of this node is shown here; says whether it was in time.

    Attributes:
        takeovers: How many workers with connections this node has taken over, by why: the node that had them was found dead, or has left.
    """

    def __init__(
        self,
        fold: Fold,
        placement: Placement,
        journal: Journal,
        estate: Estate,
        node: str,
        shown: Callable[[float], Awaitable[bool]],
        background: Background,
    ) -> None:
        self._fold, self._placement, self._journal, self._estate = fold, placement, journal, estate
        self._node, self._shown, self._background = node, shown, background
        self._free_since: dict[tuple[str, str, str], float] = {}
        self._under_way: set[str] = set()
        self._claimed: set[str] = set()  # as their heir: not because somebody wants them here
        self._taking: set[str] = set()  # whose takeover has begun, and is not done
        self._told: dict[str, str] = {}  # why one is not taken over yet, as it was logged
        self._blocked_at = 0.0
        self.takeovers: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        """True while something is claimed, or taken over."""
        return bool(self._under_way)

    def recall(self) -> None:
        """Have those Failed again that were so at an earlier start: nobody has started them, or the log said so."""
        for worker, held in self._fold.claims.workers.items():
            if self._placement.is_mine(held) and _is_deadly(held):
                self._estate.stand_failed(worker)

    def look(self, now: float, *, fit: bool) -> None:
        """Claim what this node is due to have now, and take over what it was granted; unless (`fit`) what was read is older than it may be."""
        if not fit:
            return
        free: dict[tuple[str, str, str], float] = {}
        for worker, held in list(self._fold.claims.workers.items()):
            if worker in self._under_way:
                continue
            if self._placement.is_mine(held):
                if held.inherited:
                    self._begin(worker, self._take(worker, held))
            elif self._fold.claims.is_over(held.node, held.life) and self._estate.is_left(worker):
                who = worker, held.node, held.life
                free[who] = since = self._free_since.get(who, now)
                if now - since >= NEXT_S * self._place(worker):
                    self._begin(worker, self._claim(worker))
        self._free_since = free
        if now >= self._blocked_at + BLOCKED_S:
            self._blocked_at = now
            self._background.spawn(self._estate.open_blocked())

    def _place(self, worker: str) -> int:
        """Return the place of this node among those that may have a worker: the least loaded first."""
        live = {state.node: state.beat.connections for state in self._fold.nodes.values() if not state.over}
        order = sorted(ranked(worker, set(live) | {self._node}), key=lambda node: live.get(node, 0))
        place = order.index(self._node)
        return place if self._estate.could_have(worker) else place + len(order)

    def _begin(self, worker: str, work: Awaitable[None]) -> None:
        self._under_way.add(worker)

        async def run() -> None:
            try:
                await work
            except MooringError as exc:
                if self._told.get(worker) != str(exc):
                    self._told[worker] = str(exc)
                    log.warning("the worker %s is not taken over yet: %s", worker, exc, extra={"worker": worker})
                await asyncio.sleep(AGAIN_S)
            else:
                self._told.pop(worker, None)
            finally:
                self._under_way.discard(worker)

        self._background.spawn(run())

    async def _claim(self, worker: str) -> None:
        self._claimed.add(worker)
        try:
            await self._placement.ask_for(worker)
        finally:
            if self._placement.holder_of(worker) is not None:
                self._claimed.discard(worker)

    async def _take(self, worker: str, held: Holder) -> None:
        """Do what the heir of a worker does: the claim is granted, so all that its life had published is folded."""
        # Also what this node had committed before it was killed: else an end would be told twice.
        if not await self._shown(CATCH_UP_S):
            return
        if worker not in self._taking:  # else it is tried again
            if self._fold.claims.workers.get(worker) is not held or not held.inherited:
                return  # it was done, and that is folded only now
            self._taking.add(worker)
            log.info("the worker %s of a node that is gone is being taken over", worker, extra={"worker": worker})
            self.takeovers["dead" if held.found_dead else "left"] += self._estate.is_left(worker)
        persists, failed = await self._estate.take(worker), _is_deadly(held)
        if persists and failed:
            self._estate.stand_failed(worker)
        value = TOLD if persists or worker not in self._claimed else None
        self._claimed.discard(worker)
        await self._journal.append_waiting(Append(worker=worker, claims=[Claim("worker", worker, value)]))
        await self._placement.told(worker)
        self._taking.discard(worker)
        log.warning("the worker %s of a node that is gone is taken over", worker, extra={"worker": worker})
        # Behind it: nobody who asks for something new, and no `/readyz`, waits for a process that is slow to start, or never does.
        if persists and not failed:
            await self._estate.open(worker)


def _is_deadly(held: Holder) -> bool:
    lost = held.lost_us
    return len(lost) >= KEPT_TAKEOVERS and lost[-1] - lost[0] < DEADLY_S * 1e6
