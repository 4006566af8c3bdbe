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
from typing import TypeVar

import msgspec

from mooring_service.cluster import message as wire
from mooring_service.cluster.chain import head_of, now_s
from mooring_service.cluster.engine import Conflict, Engine, EngineError
from mooring_service.cluster.lifetimes import declare_lost
from mooring_service.cluster.message import Message
from mooring_service.cluster.objects import bounds, stream_name, subject_of, verify
from mooring_service.cluster.replicator import Head, Identity, Start, forgets, start
from mooring_service.cluster_config import ClusterConfig
from mooring_service.journal.replica import Replica

LOOK_S = 0.2
KEPT_RUNS = 100

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
    """Return what `ask` returns, once the engine can be asked."""
    while True:
        try:
            return await ask()
        except EngineError as exc:
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


async def find_epoch(engine: Engine, cluster: str, node: str) -> str:
    """Return the log's name; the first node of all gives it one."""
    stream = stream_name(cluster)
    while True:
        _, last = await bounds(engine, cluster)
        if last:
            stored = await engine.read(stream, last)
            if stored is None:  # just now there was one behind it
                continue
            message = wire.decode(stored.data)
            return message.epoch
        epoch = os.urandom(4).hex()
        begins = wire.raw(wire.EpochBegins(epoch, "", 0, node))
        nonce = os.urandom(wire.NONCE_BYTES)
        first = Message(wire.VERSION, wire.EPOCH, wire.EPOCH_CHAIN, "", nonce, 0, epoch, extra=begins)
        try:
            await engine.put(stream, subject_of(cluster, wire.EPOCH_CHAIN), wire.encode(first), 0)
        except Conflict:
            continue
        return epoch


class Birth:
    """One start of a node.

    Attributes:
        over: The life of `kept` has ended, whoever has said so: what this process holds of it must end before the next one begins.
        behind: The journal has lost what the log has of it: nobody can tell which ids it has given out.
    """

    def __init__(self, engine: Engine, config: ClusterConfig, kept: Kept, replica: Replica, run: bytes) -> None:
        self._engine, self._config, self._kept, self._replica, self._run = engine, config, kept, replica, run
        self.over = False
        self.behind = False

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
            how = start(identity, self._replica.last, kept.replicated > 0, head)
            if how in (Start.CONTINUE, Start.NEW_LIFE):
                self.over = self.over or how is Start.NEW_LIFE
                self.behind = self.behind or forgets(identity, self._replica.last, head)
                return head
            assert head is not None, "only of what is there"
            if how is Start.OTHER:
                if seen not in (-1, head.seq):
                    life = head.message.life
                    raise NameTaken(
                        f"another service is node {name!r} of this cluster (life {life}): give this one a name of its own"
                    )
                seen = head.seq
                if now_s() - begun < self._config.dead_after:
                    await asyncio.sleep(LOOK_S)
                    continue
            log.warning("the life %s of node %s is declared lost: %s", head.message.life, name, how.name.lower())
            self.behind = True
            reason = "behind" if how is Start.BEHIND else "replaced"
            lost = wire.Lost(head.message.life, name, 0, reason, 0, 0, time.time_ns() // 1000)
            with contextlib.suppress(Conflict):  # it lives, or somebody else was faster: the next look says which
                await declare_lost(self._engine, self._config.name, head.message, head.seq, lost)
