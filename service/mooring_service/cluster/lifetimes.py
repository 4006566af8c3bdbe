"""How lives end: declared lost by others or by who follows, said in order by oneself; and what of one was never published.

It writes one message and asks nobody. Who is to be declared lost says `lives`, what becomes of what such a life held, `heirs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from mooring.background import Background
from mooring_service.cluster import message as wire
from mooring_service.cluster.chain import Chain, head_of, now_s
from mooring_service.cluster.engine import Conflict, Engine, EngineError
from mooring_service.cluster.fold import STOPPED, Fold
from mooring_service.cluster.lives import Judge, Peer, Standing
from mooring_service.cluster.message import Message, TooNew, Unreadable
from mooring_service.cluster.objects import stream_name, subject_of
from mooring_service.cluster.replicator import Head
from mooring_service.journal.addition import decode_addition
from mooring_service.journal.replica import Replica

SILENT = "silent"
FORGOTTEN = "forgotten"
AGAIN_S = 1.0  # a verdict that the engine did not take is tried again
STOP_S = 2.0  # so long the end of a service waits until all is acknowledged
POLL_S = 0.02
READ_BYTES = 1 << 20

log = logging.getLogger("mooring.cluster")


async def declare_lost(engine: Engine, cluster: str, old: Message, prev: int, lost: wire.Lost) -> None:
    """Say on the chain of `old`, behind its message at `prev`, that its life is over.

    Raises:
        Conflict: If something else stands behind that.
        EngineError: If nobody knows whether it was taken.
    """
    nonce = os.urandom(wire.NONCE_BYTES)
    message = Message(
        wire.VERSION, wire.LOST, old.node, lost.life, nonce, prev, old.epoch, 0, old.last, extra=wire.raw(lost)
    )
    await engine.put(stream_name(cluster), subject_of(cluster, old.node), wire.encode(message), prev)


async def declare_forgotten(
    engine: Engine, cluster: str, node: str, life: str, last: int, fold: Fold, epoch: str
) -> None:
    """Say of a life of which the log keeps nothing any more that it is over, as it was silent for so long; `last`: its last addition there.

    Others may have said so, and the log has lost that, too; or nobody was there. Whoever was faster now has said it.

    Raises:
        EngineError: If nobody knows whether it was taken.
    """
    beat = beat_of(fold, node, life)
    lost = wire.Lost(life, node, 0, FORGOTTEN, beat.workers, beat.connections, time.time_ns() // 1000)
    old = Message(wire.VERSION, wire.LOST, node, life, b"", 0, epoch, 0, last)
    with contextlib.suppress(Conflict):
        await declare_lost(engine, cluster, old, 0, lost)
        log.warning("the life %s of node %s is declared lost: the log keeps nothing of it any more", life, node)


def said_forgotten(head: Head | None) -> bool:
    """Say whether the last message of a chain is one of `declare_forgotten`."""
    return (
        head is not None and head.message.kind == wire.LOST and wire.extra(head.message, wire.Lost).reason == FORGOTTEN
    )


def beat_of(fold: Fold, node: str, life: str) -> wire.Beat:
    """Return how a node was in a life of it, as far as it was read."""
    known = fold.nodes.get(node)
    return known.beat if known is not None and known.life == life else wire.Beat()


class Verdicts:
    """Declares those lost whom the judge finds dead.

    Attributes:
        spoken: How many were taken by the log.
    """

    def __init__(
        self, engine: Engine, cluster: str, node: str, fold: Fold, judge: Judge, background: Background
    ) -> None:
        self._engine, self._cluster, self._node, self._fold, self._judge = engine, cluster, node, fold, judge
        self._background = background
        self._under_way: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._told: dict[str, str] = {}  # why one cannot be declared lost, as it was logged
        self.spoken = 0

    def hear_all(self, now: float) -> None:
        """Take what is folded of all nodes, as if it was heard just now: who has died while nothing was read is found dead, too."""
        for state in self._fold.nodes.values():
            if not state.over:
                self._judge.heard(state.node, state.life, now)
            elif state.node in self._judge.peers:
                self._judge.ended(state.node, state.life, Standing(state.over), now)

    def look(self, now: float) -> None:
        """Declare who is due now; nobody waits for the engine's answers."""
        for peer in self._judge.verdicts(now):
            if peer.node not in self._under_way and now >= self._not_before.get(peer.node, 0.0):
                self._not_before[peer.node] = now + AGAIN_S
                self._under_way.add(peer.node)
                self._background.spawn(self._declare(peer, now))

    async def _declare(self, peer: Peer, now: float) -> None:
        try:
            await self._say(peer, now)
        finally:
            self._under_way.discard(peer.node)

    async def _say(self, peer: Peer, now: float) -> None:
        state = self._fold.nodes[peer.node]
        if state.life != peer.life or state.over:
            return  # it has come back, or somebody has said so, since the judge looked
        silent_ms = int((now - peer.heard_at) * 1000)
        beat = state.beat
        lost = wire.Lost(
            peer.life, self._node, silent_ms, SILENT, beat.workers, beat.connections, time.time_ns() // 1000
        )
        old = Message(wire.VERSION, wire.LOST, peer.node, peer.life, b"", 0, self._fold.epoch, 0, state.last)
        try:
            try:
                await declare_lost(self._engine, self._cluster, old, state.head, lost)
            except Conflict:
                if await head_of(self._engine, self._cluster, peer.node) is not None:
                    return  # it lives, or another judge was faster
                await declare_lost(self._engine, self._cluster, old, 0, lost)  # the log keeps nothing of it any more
        except (EngineError, TooNew, Unreadable) as exc:
            if self._told.get(peer.node) != str(exc):
                self._told[peer.node] = str(exc)
                log.warning("node %s cannot be declared lost now: %s", peer.node, exc)
            return
        self._told.pop(peer.node, None)
        self.spoken += 1
        log.warning("node %s is declared lost: it was silent for %.1f s", peer.node, silent_ms / 1000)


def said_lost(head: Head | None, life: str) -> str:
    """Return which life was found dead before one begins behind `head`; "" where it had ended in order. `life`: the one of our state."""
    if head is None:
        return life  # silent for longer than the log keeps
    if head.message.kind != wire.LOST:
        return ""
    lost = wire.extra(head.message, wire.Lost)
    return "" if lost.reason == STOPPED else lost.life


async def unpublished(replica: Replica, replicated: int) -> int:
    """Return how many events are in the additions behind `replicated`: no other node will ever know of them.

    Raises:
        JournalUnavailable: If they cannot be read.
    """
    events = 0
    while replicated < replica.last:
        found = await replica.read(replicated, READ_BYTES)
        events += sum(len(decode_addition(one).kinds) for one in found)
        replicated += len(found)
    return events


async def leave(chain: Chain, replica: Replica, busy: Callable[[], bool], workers: int, connections: int) -> None:
    """End the life of `chain`, if all that was committed is in the log in time; else the next start goes on in it.

    `busy`: something is still about to be committed.
    """
    deadline = now_s() + STOP_S
    while now_s() < deadline and (busy() or chain.state.replicated < replica.last):  # there is no event of it
        await asyncio.sleep(POLL_S)
    if busy() or chain.state.replicated < replica.last:
        return
    who = chain.state.identity
    lost = wire.Lost(who.life, who.node, 0, STOPPED, workers, connections, time.time_ns() // 1000)
    chain.say(wire.LOST, wire.raw(lost))
    while now_s() < deadline and chain.unsaid:
        await asyncio.sleep(POLL_S)
