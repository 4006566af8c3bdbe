"""Requests of the API that another node has to do: passed on as they are, and run there by its own handlers.

Owns the wire between nodes and its bounds. What a request means it does not know: so there is no second spelling of a verb.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from mooring.background import Background
from mooring.deadline import Deadline, first_of, within
from mooring.metrics import Histogram
from mooring_service.cluster.engine import Answer, Down, Engine, EngineError
from mooring_service.cluster.fold import Fold
from mooring_service.cluster_errors import EngineDown, NodeSilent, NodeUnreachable

VERSION = 1
PIECE_BYTES = 512 * 1024
PIECE_S = 5.0  # until a piece of a body is acknowledged
MARGIN_S = 1.0  # beyond the deadline of what is asked for
LOOK_S = 1.0  # whether who is asked still lives
MAX_TRANSFERS = 64  # bodies that come, or are fetched, in pieces, at once
MAX_TRANSFER_BYTES = 256 << 20  # of all of them; the oldest give way
TRANSFER_S = 60.0

log = logging.getLogger("mooring.cluster")
_pack = msgspec.msgpack.Encoder().encode

Headers = list[tuple[str, str]]


class Command(msgspec.Struct, frozen=True, array_like=True):
    """A request on its way to another node; by place, new fields go last. Of a large body `index` (from 0) of `count` pieces.

    Without a method it asks for that piece of an answer.
    """

    version: int
    node: str
    deadline_ms: int
    method: str
    path: str
    headers: Headers
    body: bytes
    transfer: str = ""
    index: int = 0
    count: int = 1


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the other node has answered; `status` 0: the piece is taken. Of a large body the first of `count` pieces."""

    status: int
    headers: Headers
    body: bytes
    transfer: str = ""
    count: int = 1


Run = Callable[[Command], Awaitable[Reply]]
_decode_command = msgspec.msgpack.Decoder(Command).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def command_subject(cluster: str, node: str) -> str:
    """Return where a node takes commands."""
    return f"mooring.{cluster}.cmd.{node}"


class Pieces:
    """Pieces of bodies whose rest is on its way, or fetched: for a while, and not too many of them."""

    def __init__(self) -> None:
        self._kept: dict[str, list[bytes]] = {}
        self._bytes = 0

    def of(self, transfer: str) -> list[bytes]:
        """Return the pieces of one body."""
        return self._kept.get(transfer, [])

    def add(self, transfer: str, pieces: list[bytes]) -> None:
        """Keep further pieces of a body; the oldest ones of others give way."""
        if transfer not in self._kept:
            self._kept[transfer] = []
            loop = asyncio.get_running_loop()
            Deadline(loop, loop.time() + TRANSFER_S, lambda: self.drop(transfer))
        self._kept[transfer] += pieces
        self._bytes += sum(map(len, pieces))
        while len(self._kept) > 1 and (len(self._kept) > MAX_TRANSFERS or self._bytes > MAX_TRANSFER_BYTES):
            oldest = next(one for one in self._kept if one != transfer)
            self.drop(oldest)

    def drop(self, transfer: str) -> None:
        """Forget the pieces of a body."""
        self._bytes -= sum(map(len, self._kept.pop(transfer, [])))


class Forward:
    """The way to other nodes, and from them.

    Attributes:
        outcomes: How many requests were passed on, by method and what became of them.
        seconds: How long they took, by method.
    """

    def __init__(self, engine: Engine, cluster: str, node: str, fold: Fold, background: Background) -> None:
        self._engine, self._cluster, self._node, self._fold, self._background = engine, cluster, node, fold, background
        self._run: Run | None = None
        self._transfers = Pieces()
        self._answers = Pieces()  # of which the other node has the first piece
        self.outcomes: dict[tuple[str, str], int] = {}
        self.seconds: dict[str, Histogram] = {}

    async def serve(self, run: Run) -> None:
        """Have `run` do what other nodes pass on."""
        self._run = run
        await self._engine.serve(command_subject(self._cluster, self._node), self._take)

    async def ask(self, node: str, method: str, path: str, headers: Headers, body: bytes, deadline_s: float) -> Reply:
        """Have another node answer a request.

        Raises:
            NodeUnreachable: If it is gone: nothing was done.
            NodeSilent: If it did not answer in time, or its life has ended before, or its answer was lost: it may have been done.
            EngineDown: If there is no way to it.
        """
        state = self._fold.nodes.get(node)
        pieces, subject = _cut(body), command_subject(self._cluster, node)
        command = Command(VERSION, self._node, int(deadline_s * 1000), method, path, headers, b"")
        if len(pieces) > 1:
            command = msgspec.structs.replace(command, transfer=os.urandom(8).hex(), count=len(pieces))
        outcome, begun_at = "silent", time.monotonic()
        try:
            if self._engine.link is None:
                outcome = "down"
                raise EngineDown(self._engine.failure)
            if state is None or state.over:
                outcome = "unreachable"
                raise NodeUnreachable(node)
            life = state.life
            for index, piece in enumerate(pieces):
                last = index == len(pieces) - 1
                data = _pack(msgspec.structs.replace(command, body=piece, index=index))
                asking = self._engine.ask(subject, data, timeout_s=deadline_s + MARGIN_S if last else PIECE_S)
                answer = await self._while_living(node, life, asking)
            reply = await self._whole(subject, _decode_reply(answer))
            outcome = "done" if reply.status else "silent"
        except Down:
            outcome = "unreachable"
            raise NodeUnreachable(node) from None
        except (EngineError, msgspec.MsgspecError):
            raise NodeSilent(node) from None
        finally:
            self.outcomes[method, outcome] = self.outcomes.get((method, outcome), 0) + 1
            self.seconds.setdefault(method, Histogram()).observe(time.monotonic() - begun_at)
        if not reply.status:
            raise NodeSilent(node)
        return reply

    async def _while_living(self, node: str, life: str, asking: Coroutine[None, None, bytes]) -> bytes:
        """Return an answer of a node in a life of it.

        Raises:
            NodeSilent: If that life ends before.
            As `asking`.
        """
        task = asyncio.create_task(asking)
        try:
            while not task.done() and self._fold.living(node, life) is not None:
                await first_of((task,), LOOK_S)
            if not task.done():
                raise NodeSilent(node)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _whole(self, subject: str, reply: Reply) -> Reply:
        """Return an answer with all of its body; `status` 0 if some of it is not to be had any more."""
        found = [reply.body]
        for index in range(1, reply.count):
            wanted = Command(VERSION, self._node, 0, "", "", [], b"", reply.transfer, index)
            try:
                piece = _decode_reply(await self._engine.ask(subject, _pack(wanted), timeout_s=PIECE_S))
            except Down:  # behind an answer: it was done
                return msgspec.structs.replace(reply, status=0)
            if not piece.status:
                return piece
            found.append(piece.body)
        return msgspec.structs.replace(reply, body=b"".join(found))

    async def _take(self, asked: Answer) -> None:
        try:
            command = _decode_command(asked.data)
        except msgspec.MsgspecError as exc:
            log.error("a command of another node cannot be read: %s", exc)
            return  # it runs into its deadline: nobody can tell what was meant
        if not command.method:
            kept = self._answers.of(command.transfer)
            more = command.index < len(kept)
            await self._answer(asked, Reply(200, [], kept[command.index]) if more else Reply(0, [], b""))
            return
        if command.count > 1 and not self._collect(command):
            await self._answer(asked, Reply(0, [], b""))
            return
        if command.count > 1:
            whole = self._transfers.of(command.transfer)
            self._transfers.drop(command.transfer)
            if len(whole) != command.count:
                return  # its beginning was lost
            command = msgspec.structs.replace(command, body=b"".join(whole))
        self._background.spawn(self._do(asked, command))

    def _collect(self, command: Command) -> bool:
        """Take a piece of a body; say whether it was the last."""
        if command.index == len(self._transfers.of(command.transfer)):
            self._transfers.add(command.transfer, [command.body])
        return command.index == command.count - 1

    async def _do(self, asked: Answer, command: Command) -> None:
        assert self._run is not None, "served with one"
        try:
            async with within(command.deadline_ms / 1000):
                reply = await self._run(command)
        except (TimeoutError, OSError, ValueError) as exc:
            log.warning("a request of node %s was not answered: %s", command.node, exc or "not in time")
            return  # it is silent there, too
        pieces = _cut(reply.body)
        if len(pieces) > 1:
            reply = msgspec.structs.replace(reply, body=pieces[0], transfer=os.urandom(8).hex(), count=len(pieces))
            self._answers.add(reply.transfer, pieces)
        await self._answer(asked, reply)

    async def _answer(self, asked: Answer, reply: Reply) -> None:
        try:
            await self._engine.publish(asked.reply, _pack(reply))
        except EngineError as exc:
            log.warning("an answer to another node is lost: %s", exc)


def _cut(body: bytes) -> list[bytes]:
    return [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)] or [b""]
