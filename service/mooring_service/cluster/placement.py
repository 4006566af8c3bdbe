"""Which node runs a worker, and has a name: claimed by a record in the own journal, granted by the fold at its place in the log.

Owns who waits for a grant. What a claim is worth is `claims`' affair; that a life is over, the log's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mooring.deadline import first_of
from mooring.errors import Invalid, InvalidRequest
from mooring_service.cluster.claims import CLEARED, TOLD, Holder
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.fold import Fold, NodeState
from mooring_service.cluster_errors import Elsewhere, EngineDown
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.journal import Committed, Journal

CLAIM_S = 2.0

log = logging.getLogger("mooring.cluster")


class Placement:
    """The places of workers and names, as this node sees them.

    Args:
        life: Returns the present life of this node; "" while it has none.

    Attributes:
        where: Returns which node holds a connection.
        default_worker: The worker of a create that names none.
    """

    def __init__(self, engine: Engine, journal: Journal, fold: Fold, node: str, life: Callable[[], str]) -> None:
        self._engine, self._journal, self._fold, self._node, self._life = engine, journal, fold, node, life
        # By what it is: the newest release of each worker and key, in the order in which they were begun.
        self._released: dict[tuple[str, str], asyncio.Future[Committed]] = {}
        self._waiting: dict[tuple[str, str], asyncio.Future[bool]] = {}
        self._untold: dict[
            str, asyncio.Future[None]
        ] = {}  # workers whose connections of an earlier life are not told yet
        self.where: Callable[[int], str | None] = lambda connection: None
        self.default_worker = default_worker(node)
        fold.on_claim = self._folded

    def holder_of(self, worker: str) -> str | None:
        """Return which other node has a worker; None: this one, or none that lives."""
        held = self._fold.claims.workers.get(worker)
        return held.node if held is not None and held.node != self._node and self._lives(held) else None

    def holds(self, worker: str) -> bool:
        """Say whether this node has a worker, as far as the log was read."""
        held = self._fold.claims.workers.get(worker)
        return held is not None and self.is_mine(held) and not self._gives_up("worker", worker)

    @property
    def takes_creates(self) -> bool:
        """Say whether the default worker can have something new: what it had in an earlier life is told (`hold` waits for that)."""
        held = self._fold.claims.workers.get(self.default_worker)
        return held is None or not (held.inherited and self.is_mine(held))

    def locate(self, worker: str, node: str | None, name: str | None = None) -> None:
        """Check that this node is where something of a worker is to be begun: who has it, else who is asked for, else this one.

        `name`: of a connection that is to be begun; no other node may have it.

        Raises:
            Elsewhere: If another node is it; with `asked` where that contradicts who has it.
            InvalidRequest: If no node of that name was ever there.
        """
        held = self._fold.claims.workers.get(worker)
        has = held.node if held is not None and self._lives(held) else None
        if node is not None and node != self._node and node not in self._fold.nodes:
            raise InvalidRequest([Invalid("/node", f"the cluster has no node {node!r}")])
        if has is not None and node not in (None, has):
            raise Elsewhere(f"the worker {worker!r}", has, node)
        if (has or node or self._node) != self._node:
            raise Elsewhere(f"the worker {worker!r}", has or node or "")
        if name is not None:
            self._locate_name(name)

    def _locate_name(self, name: str) -> None:
        held = self._fold.claims.names.get(name)
        if held is None:
            return
        if held.connection:  # an heir may have opened it again
            node = self.where(held.connection) or held.node
        else:
            node = held.node if self._lives(held) else self._node
        if node != self._node:
            raise Elsewhere(f"the name {name!r}", node)

    async def hold(self, worker: str, *, anew: bool = False) -> bool:
        """Have this node hold a worker; `anew`: it is forgotten that nodes which had it have died.

        Returns:
            Whether nobody had it: where nothing of it can be begun after all, it is to be given up again.

        Raises:
            Elsewhere: If another node has it.
            EngineDown: If that cannot be said just now.
        """
        had = self.holds(worker)
        held = await self._held(worker)
        is_new = not had and not held.inherited
        if held.inherited:  # nothing new before what it had is told
            await first_of((self._until_told(worker),), CLAIM_S)
            # Where nothing of it persists its heir, this node, has given it up: then it is free as any.
            if self._fold.claims.workers.get(worker) is not held:
                held, is_new = await self._held(worker), True
            if held.inherited:
                raise EngineDown(f"what the worker {worker!r} had at another node is being taken over")
        if anew and held.lost_us:
            await self._journal.append_waiting(Append(worker=worker, claims=[Claim("worker", worker, CLEARED)]))
        return is_new

    async def _held(self, worker: str) -> Holder:
        """Return a worker as this node has it, claimed if need be; raises as `hold`."""
        held = self._fold.claims.workers.get(worker)
        if held is None or not self._lives(held) or self._gives_up("worker", worker):
            await self.ask_for(worker)
            held = self._fold.claims.workers.get(worker)
        if held is None or self._gives_up("worker", worker):  # it was granted, and given up since
            raise EngineDown(f"the worker {worker!r} is just being given up")
        if held.node != self._node:
            raise Elsewhere(f"the worker {worker!r}", held.node)
        return held

    async def ask_for(self, worker: str) -> None:
        """Claim a worker, and wait for what becomes of that.

        Raises:
            EngineDown: If that cannot be said just now.
        """
        await self.claim(Claim("worker", worker, ""), worker)

    def _until_told(self, worker: str) -> asyncio.Future[None]:
        future = self._untold.get(worker)
        if future is None:
            future = self._untold[worker] = asyncio.get_running_loop().create_future()
        return future

    async def told(self, worker: str) -> None:
        """Wait, for a while, until it is folded that what a worker had is told."""
        held = self._fold.claims.workers.get(worker)
        if held is not None and self.is_mine(held) and held.inherited:
            await first_of((self._until_told(worker),), CLAIM_S)

    def is_mine(self, held: Holder) -> bool:
        """Say whether this node has something, in its present life."""
        return held.node == self._node and held.life == self._life()

    async def hold_name(self, name: str) -> None:
        """Have this node hold a name of a connection, before there is one of it.

        Raises:
            Elsewhere: If a connection of another node has it.
            EngineDown: If that cannot be said just now.
        """
        self._locate_name(name)
        held = self._fold.claims.names.get(name)
        if held is None or held.connection or not self.is_mine(held):
            await self.claim(Claim("name", name, 0))
            held = self._fold.claims.names.get(name)
        if held is None:  # the connection that got it has ended since
            raise EngineDown(f"the name {name!r} is just being given up")
        if held.node != self._node:
            raise Elsewhere(f"the name {name!r}", held.node)

    async def take(self, workers: set[str]) -> None:
        """Claim the workers that this node has at the beginning of a life, and a default one. Ends once that is committed here."""
        number = 1
        name = self.default_worker = default_worker(self._node)
        while self.holder_of(name) is not None:  # an heir has it
            number += 1
            name = self.default_worker = f"{default_worker(self._node)}-{number}"
        claims = []
        for worker in sorted(workers | {name}):
            held = self._fold.claims.workers.get(worker)
            if held is None or not self._lives(held):
                claims.append(self._journal.append_waiting(Append(worker=worker, claims=[Claim("worker", worker, "")])))
            elif held.node != self._node:
                log.error("the worker %s is at the node %s, and there is one of that name here, too", worker, held.node)
        await asyncio.gather(*claims)

    def release(self, worker: str) -> asyncio.Future[Any]:
        """Give a worker up: others may have it. The future, which nobody need wait for (but behind a shield), ends once that is committed here.

        It has ended where that is on its way already, or another node has the worker.
        """
        held = self._fold.claims.workers.get(worker)
        # Once: a claim may follow the first release already.
        if held is None or held.node != self._node or self._gives_up("worker", worker):
            nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing
        return self._release(Append(worker=worker, claims=[Claim("worker", worker, None)]))

    def key(self, key: str) -> Holder | None:
        """Return who has an Idempotency-Key; None as well where this node has given it up, and the log does not have that yet."""
        held = self._fold.claims.keys.get(key)
        return None if held is not None and self.is_mine(held) and self._gives_up("key", key) else held

    def release_key(self, key: str) -> asyncio.Future[Committed]:
        """Give an Idempotency-Key up, behind what was queued before; the future ends once that is committed here."""
        return self._release(Append(claims=[Claim("key", key, None)]))

    def _release(self, append: Append) -> asyncio.Future[Committed]:
        released = self._journal.append_waiting(append)
        released.add_done_callback(lambda future: future.cancelled() or future.exception())  # who waits may have gone
        while (oldest := next(iter(self._released), None)) is not None and not self._gives_up(*oldest):
            del self._released[oldest]
        what = append.claims[0].what, append.claims[0].key
        self._released.pop(what, None)  # it goes behind the others
        self._released[what] = released
        return released

    def _gives_up(self, what: str, key: str) -> bool:
        """Say whether this node has given something up, and the log, as far as it was read, does not have that yet.

        What it has is told by number: it may be one of those that were gone before they were read, or of a life that is over.
        """
        released = self._released.get((what, key))
        if released is None or (released.done() and (released.cancelled() or released.exception())):
            return False
        node = self._fold.nodes.get(self._node)
        return not released.done() or node is None or released.result().addition > node.last

    def _lives(self, held: Holder) -> bool:
        if held.node == self._node:
            return self.is_mine(held)
        return not self._fold.claims.is_over(held.node, held.life)

    async def claim(self, claim: Claim, worker: str = "") -> bool:
        """Have a claim of this node in the log, and wait for what it is worth there; say whether it is granted.

        Raises:
            EngineDown: If that cannot be said just now.
        """
        key = claim.what, claim.key
        future = self._waiting.get(key)
        if future is None:
            if not self._engine.up.is_set():
                raise EngineDown(f"who has the {claim.what} {claim.key!r} cannot be asked: {self._engine.failure}")
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._journal.append(Append(worker=worker, claims=[claim]))
        await first_of((future,), CLAIM_S)
        if not future.done():
            self._waiting.pop(key, None)
            raise EngineDown(f"the claim of the {claim.what} {claim.key!r} has not come back")
        return future.result()

    def _folded(self, node: NodeState, claim: Claim, granted: bool) -> None:
        if node.node != self._node or node.life != self._life():
            return
        # Else nobody waits for it: what is asked for behind a release is another claim.
        if claim.value not in (None, TOLD, CLEARED):
            future = self._waiting.pop((claim.what, claim.key), None)
            if future is not None and not future.done():
                future.set_result(granted)
        if claim.what != "worker":
            return
        held = self._fold.claims.workers.get(claim.key)
        if held is None or not held.inherited:
            told = self._untold.pop(claim.key, None)
            if told is not None:
                told.set_result(None)


def default_worker(node: str) -> str:
    """Return the worker of a create that names none, unless an heir has it."""
    return f"main-{node}"
