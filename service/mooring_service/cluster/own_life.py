"""The life that this node is in: what its state directory knows of it, and how one ends here and the next begins.

It publishes nothing. What is said of it on the chain is the node's affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial

import msgspec

from mooring.errors import JournalUnavailable
from mooring.told import Told
from mooring_service.cluster import message as wire
from mooring_service.cluster.birth import Kept, end_forgotten, until_asked
from mooring_service.cluster.chain import head_of, now_s
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.lifetimes import said_lost, unpublished
from mooring_service.cluster.replicator import Head, Identity, Replicator
from mooring_service.config import ClusterRefused
from mooring_service.journal.replica import Replica
from mooring_service.journal.sqlite import SqliteJournal

SAVE_S = 1.0

log = logging.getLogger("mooring.cluster")
_pack = msgspec.msgpack.Encoder().encode


class OwnLife:
    """The present life of a node, by one start of its service.

    Args:
        end: Ends all that the service holds of a life that is over, and waits until that is committed.
        lifted: See `Backlog.lifted`.

    Attributes:
        kept: What the state directory knows.
        returned: What `up` has to say of the life before; None once it was said, and where there is nothing.
        over: True from the moment at which this life is known to be over until the next one begins.
        has_slot: The `up` of this life is folded, and its slot granted; before, the slot of `kept` may be another's.
    """

    def __init__(
        self,
        cluster: str,
        node: str,
        journal: SqliteJournal,
        end: Callable[[], Awaitable[None]],
        lifted: Callable[[], AbstractContextManager[None]],
        *,
        has_connections: bool,
    ) -> None:
        """Read it, or begin the first.

        Raises:
            ClusterRefused: If this state directory cannot be a node of this cluster.
        """
        assert journal.replica is not None, "made with one"
        self._node, self._journal, self._end, self._lifted = node, journal, end, lifted
        self._replica: Replica = journal.replica
        self.run = os.urandom(wire.RUN_BYTES)
        self.returned: wire.Returned | None = None
        self.over = self.has_slot = False
        self._unkept = Told()
        kept = self._replica.state
        if kept is not None:
            self.kept = msgspec.msgpack.decode(kept, type=Kept)
            if self.kept.cluster != cluster:
                raise ClusterRefused(
                    f"this state directory is of the cluster {self.kept.cluster!r}, not of {cluster!r}"
                )
        elif has_connections:
            raise ClusterRefused(
                "this state directory has connections that have not ended, from before [cluster]: end them without it first, "
                "or begin with an empty directory"
            )
        else:
            self.kept = Kept(cluster, os.urandom(4).hex())
        self._replica.slot = self.kept.slot or None

    @property
    def identity(self) -> Identity:
        """Who writes on the chain."""
        kept = self.kept
        return Identity(self._node, kept.life, self.run, frozenset(kept.runs), kept.born)

    def goes_on(self, life: str) -> bool:
        """Say whether this life is the present one, and not over."""
        return not self.over and self.kept.life == life

    def replicator(self, epoch: str, prev: int, replicated: int) -> Replicator:
        """Return what decides on this life's chain, which goes on behind its message at `prev`."""
        return Replicator(
            self.identity, epoch, prev, replicated, now_s(), lambda: os.urandom(wire.NONCE_BYTES - wire.RUN_BYTES)
        )

    def replicated(self, state: Replicator | None) -> int:
        """Return up to which addition nothing waits for the log any more: it has it, or will never have it, as it is an earlier life's.

        `state`: of the chain; None before there is one. After the end of a life it is that one's still for a while.
        """
        kept = self.kept
        if state is not None and state.identity.life == kept.life:
            return state.replicated
        return max(kept.born, kept.replicated)

    async def keep(self, replicated: int) -> None:
        """Keep how much is replicated, once this life has its slot; it was kept as that was granted."""
        if self.has_slot:
            await self.save(replicated)

    async def save(self, replicated: int) -> None:
        """Keep what a restart must know; while the disk takes nothing, that waits, for as long as this life is the present one.

        The next one is kept by who begins it, once the log has it that the old one is over: a restart before that has to say so.
        """
        kept, life = self.kept, self.kept.life
        kept.replicated = max(kept.born, replicated)  # it may have been counted in the life before
        with self._lifted():
            while kept.life == life:
                try:
                    if not await self._journal.save_cluster(_pack(kept), replicated):
                        self._unkept.over()
                        return
                    # There is more to drop: others write in between.
                except JournalUnavailable as exc:
                    if self._unkept.is_new(exc):
                        log.error("the place in the cluster cannot be kept: %s", exc)
                    await asyncio.sleep(SAVE_S)

    async def give_up(self, engine: Engine, cluster: str, fold: Fold, state: Replicator) -> Head | None:
        """End this life while the service runs, and begin another; return the last message of the chain behind which that goes on."""
        head, life = await until_asked(partial(head_of, engine, cluster, self._node)), self.kept.life
        await self.follow(head, replicated=state.replicated, slot=self.kept.slot)
        if head is not None:
            return head
        # Behind the end of all that it held: nobody may have opened any of it yet.
        return await end_forgotten(engine, cluster, self._node, life, state.replicated, fold, state.epoch)

    async def follow(self, head: Head | None, *, replicated: int, slot: int) -> None:
        """End what belongs to the life that was, whose chain ends with `head`, and begin another.

        All that the old one still reports is committed here, and published never.
        """
        self.over = True
        kept = self.kept
        lost = said_lost(head, kept.life)
        log.warning("the life %s of this node is over: what is left of it ends, and a new one begins", kept.life)
        with self._lifted():  # what waits of it is never published
            await self._end()
        if head is not None and head.message.life == kept.life:
            replicated = max(replicated, head.message.last)
        if lost:
            self.returned = await self._returned(lost, replicated)
        kept.begin(self._replica.last, slot=slot)
        kept.add_run(self.run)
        self.over = False

    async def _returned(self, lost: str, replicated: int) -> wire.Returned:
        try:
            events = await unpublished(self._replica, replicated)
        except JournalUnavailable as exc:
            log.error("what was never published cannot be counted: %s", exc)
            events = 0
        journal = self._journal
        if not events:
            return wire.Returned(lost)
        return wire.Returned(
            lost, events, f"{journal.epoch}-{journal.last - events + 1}", f"{journal.epoch}-{journal.last}"
        )
