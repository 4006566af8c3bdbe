"""A copy of what a peer has folded, for a node that was away for longer than the log keeps: asked for, and given. Owns the way.

What is in one is `copy`'s affair; what becomes of it, the tail's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

import msgspec

from mooring.deadline import Deadline
from mooring.errors import JournalUnavailable
from mooring.told import Told
from mooring_service.cluster.copy import Copy, Pair, joined, pieces_of
from mooring_service.cluster.engine import Engine, EngineError
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.forward import VERSION, Command, Reply, Run, command_subject
from mooring_service.cluster.message import EPOCH_CHAIN
from mooring_service.cluster.objects import bounds, stream_name, subject_of
from mooring_service.cluster_config import ClusterConfig
from mooring_service.journal.sparse import SparseJournal

COPY = "COPY"  # the method of such a request: none of HTTP, so it never comes to the API
ASK_S = 2.0
MADE_S = 30.0  # until a peer has made its copy
KEPT_S = 60.0  # a copy that is not fetched is dropped
MAX_KEPT = 2
AGAIN_S = 0.5

log = logging.getLogger("mooring.cluster")
_pack = msgspec.msgpack.Encoder().encode


class Made(msgspec.Struct, frozen=True, array_like=True):
    """A copy that waits to be fetched: by which name, in how many pieces."""

    name: str
    count: int


class Copies:
    """What this node gives to peers that lack it, and has from those that have it.

    Attributes:
        records: Returns the records of all connections.
    """

    def __init__(self, engine: Engine, config: ClusterConfig, fold: Fold, journal: SparseJournal) -> None:
        self._engine, self._cluster, self._node = engine, config.name, config.node
        self._fold, self._journal = fold, journal
        self._wait_s = config.dead_after  # so long a live peer has to be found
        self._kept: dict[str, tuple[str, list[bytes]]] = {}  # by node: the copy's name, and its pieces
        self._unmade, self._useless = Told(), Told()
        self.records: Callable[[], Iterable[Pair]] = tuple

    def beside(self, run: Run) -> Run:
        """Return what does what `run` does, and answers who asks for a copy."""

        async def answer(command: Command) -> Reply:
            return await (self.answer if command.method == COPY else run)(command)

        return answer

    async def answer(self, command: Command) -> Reply:
        """Answer a peer: how far this node is (``far``), that a copy is made (``make``), a piece of one (``NAME/INDEX``)."""
        if command.path == "far":
            return Reply(200, [], _pack(self._fold.applied))
        if command.path == "make":
            return await self._make(command.node)
        wanted, _, index = command.path.partition("/")
        name, pieces = self._kept.get(command.node, ("", []))
        if name != wanted or not index.isdecimal() or int(index) >= len(pieces):
            return Reply(404, [], b"")
        return Reply(200, [], pieces[int(index)])

    async def _make(self, node: str) -> Reply:
        try:
            folded = await self._journal.copy_folded()
        except JournalUnavailable as exc:
            if self._unmade.is_new(exc):
                log.error("no copy of what was folded can be made for node %s: %s", node, exc)
            return Reply(503, [], b"")
        self._unmade.over()
        pieces = pieces_of(Copy(folded, list(self.records())))
        if self._kept.pop(node, None) is None:  # else it has failed to take the one before
            log.warning(
                "node %s, which the log has outrun, is given a copy of what was folded up to %d", node, folded.applied
            )
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        name = os.urandom(8).hex()
        self._kept[node] = name, pieces
        loop = asyncio.get_running_loop()
        Deadline(loop, loop.time() + KEPT_S, lambda: self._drop(node, name))
        return Reply(200, [], _pack(Made(name, len(pieces))))

    def _drop(self, node: str, name: str) -> None:
        if node in self._kept and self._kept[node][0] == name:
            del self._kept[node]

    async def find(self) -> Copy | None:
        """Return the copy of the peer that is furthest, once one reaches to where the log begins; None if nobody has one to give.

        Nobody has, where no peer that is further than this node answers in time: then this one is what the others go on from.

        Raises:
            EngineError: If the engine cannot be asked.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_s
        while True:
            first, _ = await bounds(self._engine, self._cluster)
            far = await self._ask_all()
            furthest = max(far, default=(0, ""))
            if furthest[0] >= first - 1 and furthest[0] > self._fold.applied:
                copy = await self._fetch(furthest[1])
                if copy is not None and copy.folded.applied >= first - 1:
                    self._useless.over()
                    log.warning(
                        "the copy of node %s is taken over: what was folded up to %d", furthest[1], copy.folded.applied
                    )
                    return copy
            # One that is further, and has a hole before it, too, goes on soon; of those that are equally far, one does.
            elif furthest < (self._fold.applied, self._node) and loop.time() >= until:
                return None
            await asyncio.sleep(AGAIN_S)

    async def _ask_all(self) -> list[tuple[int, str]]:
        """Return how far each peer that answers is. Who lives speaks in the log, so it is among those of whom there is a message."""
        begin = subject_of(self._cluster, "")
        answer = await self._engine.api(f"STREAM.INFO.{stream_name(self._cluster)}", {"subjects_filter": f"{begin}>"})
        nodes = {subject.removeprefix(begin) for subject in answer["state"].get("subjects") or ()}
        peers = sorted(nodes - {self._node, EPOCH_CHAIN})
        replies = await asyncio.gather(*(self._ask(peer, "far", ASK_S) for peer in peers))
        found = []
        for peer, reply in zip(peers, replies, strict=True):
            if reply is not None:
                found.append((msgspec.msgpack.decode(reply, type=int), peer))
        return found

    async def _fetch(self, peer: str) -> Copy | None:
        reply = await self._ask(peer, "make", MADE_S)
        if reply is None:
            return None
        made = msgspec.msgpack.decode(reply, type=Made)
        pieces = []
        for index in range(made.count):
            piece = await self._ask(peer, f"{made.name}/{index}", ASK_S)
            if piece is None:
                if self._useless.is_new(f"{peer}: broken off"):
                    log.warning("the copy of node %s broke off at piece %d of %d", peer, index, made.count)
                return None
            pieces.append(piece)
        try:
            copy = joined(pieces)
        except msgspec.MsgspecError as exc:
            if self._useless.is_new(f"{peer}: {exc}"):
                log.error("the copy of node %s cannot be read: %s", peer, exc)
            return None
        return copy

    async def _ask(self, peer: str, path: str, timeout_s: float) -> bytes | None:
        """Return what a peer answers; None if it does not, or cannot."""
        command = Command(VERSION, self._node, int(timeout_s * 1000), COPY, path, [], b"")
        try:
            answer = await self._engine.ask(command_subject(self._cluster, peer), _pack(command), timeout_s=timeout_s)
            reply = msgspec.msgpack.decode(answer, type=Reply)
        except (EngineError, msgspec.MsgspecError):
            return None  # it is gone, or of an earlier mooring
        return reply.body if reply.status == 200 else None
