"""How a node begins: the log's name, and what its own chain says of the life that it was in. Ends before anything is published.

Knows the rules of a start; what is published afterwards is the chain's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from mooring.told import Told
from mooring_service.cluster import message as wire
from mooring_service.cluster.chain import head_of, now_s
from mooring_service.cluster.engine import Conflict, Engine, EngineError
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.lifetimes import beat_of, declare_forgotten, declare_lost, said_forgotten
from mooring_service.cluster.message import Message, Unreadable
from mooring_service.cluster.objects import bounds, stream_name, subject_of, verify
from mooring_service.cluster.replicator import Head, Identity, Start, forgets, start
from mooring_service.cluster_config import ClusterConfig
from mooring_service.journal.replica import Replica

LOOK_S = 0.2
KEPT_RUNS = 100
GIVEN_UP = {Start.BEHIND: "behind", Start.OTHER: "replaced"}  # reasons of a `Lost`

Answer = TypeVar("Answer")
log = logging.getLogger("mooring.cluster")


class NameTaken(Exception):
    """Another process is the node of this name, and lives."""


class Kept(msgspec.Struct, array_like=True):
    """What a state directory knows of its place in a cluster; by place, new fields go last."""

    cluster: str
    life: str
    runs: list[bytes] = []
    born: int = 0
    replicated: int = 0
    slot: int = 0

    def add_run(self, run: bytes) -> None:
        """This start of the service belongs to the life."""
        self.runs = [*self.runs[-KEPT_RUNS + 1 :], run]

    def begin(self, born: int, *, slot: int) -> None:
        """A new life begins: additions up to `born` belong to earlier ones."""
        self.life, self.runs, self.born, self.replicated, self.slot = os.urandom(4).hex(), [], born, 0, slot


async def until_asked(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return what `ask` returns, once the engine can be asked; why it cannot is told once, and when that changes."""
    told = Told()
    while True:
        try:
            return await ask()
        except EngineError as exc:
            if told.is_new(exc):
                log.warning("the engine cannot be asked: %s", exc)
            await asyncio.sleep(LOOK_S)


async def verified(engine: Engine, cluster: str) -> None:
    """Wait for the engine, and check what is there; what is to be warned of is logged.

    Raises:
        WrongEngine: If a node must not start with it.
    """

    async def look() -> list[str]:
        await engine.up.wait()
        return await verify(engine, cluster)

    for warning in await until_asked(look):
        log.warning("%s", warning)


async def find_epoch(engine: Engine, cluster: str, node: str, wait_s: float) -> str:
    """Return the log's name; the first node of all gives it one.

    Where the log has held something and keeps nothing that tells it, those that know it have `wait_s` to say so; then it gets a new one.
    """
    stream = stream_name(cluster)
    begun = now_s()
    while True:
        first, last = await bounds(engine, cluster)
        for seq in range(last, max(first, 1) - 1, -1):  # an empty one begins at 0
            stored = await engine.read(stream, seq)
            if stored is None:  # just now there was one behind it
                break
            with contextlib.suppress(Unreadable):  # a stranger's
                return wire.decode(stored.data).epoch
        if last and now_s() - begun < wait_s:
            await asyncio.sleep(LOOK_S)
            continue
        epoch = os.urandom(4).hex()
        begins = wire.raw(wire.EpochBegins(epoch, "", 0, node))
        nonce = os.urandom(wire.NONCE_BYTES)
        message = Message(wire.VERSION, wire.EPOCH, wire.EPOCH_CHAIN, "", nonce, 0, epoch, extra=begins)
        try:
            await engine.put(stream, subject_of(cluster, wire.EPOCH_CHAIN), wire.encode(message), 0)
        except Conflict:
            await asyncio.sleep(LOOK_S)
            continue
        log.warning("the log is named %s", epoch)
        return epoch


async def end_forgotten(
    engine: Engine, cluster: str, node: str, life: str, last: int, fold: Fold, epoch: str
) -> Head | None:
    """Have it in the log that a life of which that keeps nothing is over (`declare_forgotten`); return the last message of its chain then."""
    await until_asked(partial(declare_forgotten, engine, cluster, node, life, last, fold, epoch))
    return await until_asked(partial(head_of, engine, cluster, node))


class Birth:
    """One start of a node.

    Attributes:
        epoch: The log's name, once `find` has ended.
        over: The life of `kept` has ended, whoever has said so: what this process holds of it must end before the next one begins.
        behind: The journal may lack what the log has, or had, of it: nobody can tell which ids were given out.
    """

    def __init__(
        self, engine: Engine, config: ClusterConfig, kept: Kept, replica: Replica, run: bytes, fold: Fold
    ) -> None:
        self._engine, self._config, self._kept, self._replica, self._run = engine, config, kept, replica, run
        self._fold = fold
        self.epoch = ""
        self.over = False
        self.behind = False

    async def find(self) -> Head | None:
        """Return what `own_chain` returns, once the engine can be asked.

        Raises:
            NameTaken, TooNew, Unreadable: As that.
        """
        ask = partial(find_epoch, self._engine, self._config.name, self._config.node, self._config.dead_after)
        self.epoch = self._fold.epoch or await until_asked(ask)
        return await until_asked(self.own_chain)

    async def own_chain(self) -> Head | None:
        """Return the chain's last message, once it is one behind which this process may write.

        Raises:
            NameTaken: If another process writes there.
            EngineError: If the engine cannot be asked just now.
            TooNew, Unreadable: If what is there is not ours.
        """
        name = self._config.node
        begun, seen = now_s(), -1
        while True:
            head = await head_of(self._engine, self._config.name, name)
            kept = self._kept
            identity = Identity(name, kept.life, self._run, frozenset(kept.runs), kept.born)
            how = start(identity, self._replica.last, await self._has_published(head), head)
            if how in (Start.CONTINUE, Start.NEW_LIFE):
                self.over = self.over or how is Start.NEW_LIFE
                self.behind = self.behind or forgets(identity, self._replica.last, head) or said_forgotten(head)
                return head
            if how is Start.OTHER:
                assert head is not None, "only of what is there"
                if seen not in (-1, head.seq):
                    life = head.message.life
                    raise NameTaken(
                        f"another service is node {name!r} of this cluster (life {life}): give this one a name of its own"
                    )
                seen = head.seq
                if now_s() - begun < self._config.dead_after:
                    await asyncio.sleep(LOOK_S)
                    continue
            await self._give_up(how, head)

    async def _has_published(self, head: Head | None) -> bool:
        """Say whether this log has held something of this state directory."""
        kept = self._kept
        if not kept.replicated and not kept.slot:  # a slot is kept once the log has granted it
            return False
        if head is not None:
            return True
        _, last = await bounds(self._engine, self._config.name)
        return last >= self._fold.applied  # else the log went back: the chain finds out, and publishes no more

    async def _give_up(self, how: Start, head: Head | None) -> None:
        """Declare the life on this chain lost, which nobody goes on with."""
        node = self._config.node
        self.behind = True
        if head is None:
            kept = self._kept
            await declare_forgotten(
                self._engine, self._config.name, node, kept.life, kept.replicated, self._fold, self.epoch
            )
            return
        old = head.message
        beat = beat_of(self._fold, node, old.life)
        lost = wire.Lost(old.life, node, 0, GIVEN_UP[how], beat.workers, beat.connections, time.time_ns() // 1000)
        with contextlib.suppress(Conflict):  # it lives, or somebody else was faster: the next look says which
            await declare_lost(self._engine, self._config.name, old, head.seq, lost)
            log.warning("the life %s of node %s is declared lost: %s", old.life, node, GIVEN_UP[how])
