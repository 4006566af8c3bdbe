"""The replicator: publishes what the journal has committed on this node's own subject, one message in flight, and beats.

Owns the pace and the waiting; what is sent next, and what an answer means, decides `replicator`. What becomes of a life that is over, or of
a log that went back, is the node's affair: it is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.deadline import within
from mooring.errors import JournalUnavailable
from mooring.metrics import Histogram
from mooring.told import Told
from mooring_service.cluster import message as wire
from mooring_service.cluster.engine import Busy, Conflict, Engine, EngineError
from mooring_service.cluster.message import Message, TooNew, Unreadable
from mooring_service.cluster.objects import bounds, stream_name, subject_of
from mooring_service.cluster.replicator import Head, Identity, Replicator, State
from mooring_service.journal.replica import Replica

BUSY_S = 0.003
BUSY_AT_MOST_S = 2.0  # then it is asked what became of it
DOUBT_PAUSE_S = (0.05, 0.5)
RETRY_S = 0.5  # where the own journal cannot be read

log = logging.getLogger("mooring.cluster")


def now_s() -> float:
    """Return the time of all that concerns lives: no jump of the clock moves it, and a suspended machine does not stop it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Owner(Protocol):
    """Whom the chain tells what it cannot decide."""

    def beat(self) -> wire.Beat:
        """Return how this node is."""

    async def rise(self) -> None:
        """This life is over: end what belongs to it, and begin another."""

    def refuse(self, reason: str) -> None:
        """This process must not go on."""


async def head_of(engine: Engine, cluster: str, node: str) -> Head | None:
    """Return the last message of a chain; None if there is none.

    Raises:
        EngineError: If it cannot be asked just now.
        TooNew: If a later mooring has written it.
        Unreadable: If it is a stranger's.
    """
    stored = await engine.last(stream_name(cluster), subject_of(cluster, node))
    return None if stored is None else Head(stored.seq, wire.decode(stored.data))


class Chain:
    """The one writer of a node's chain.

    Args:
        applied: Returns how far the log was read.
        beat_s, pace_s: See `[cluster]`.

    Attributes:
        state: What is known of the chain; see `replicator.Replicator`.
        ack: How long the engine takes to acknowledge.
        doubts: How often nobody knew what became of a message, by what was found then.
        messages, bytes_total: Of what was acknowledged.
        refusal: What the engine has against us; "" if nothing.
    """

    def __init__(
        self,
        engine: Engine,
        cluster: str,
        replica: Replica,
        state: Replicator,
        owner: Owner,
        applied: Callable[[], int],
        *,
        beat_s: float,
        pace_s: float,
    ) -> None:
        self._engine, self._cluster, self._replica, self._owner, self._applied = (
            engine,
            cluster,
            replica,
            owner,
            applied,
        )
        self._beat_s, self._pace_s = beat_s, pace_s
        self.state = state
        self.ack = Histogram()
        self.doubts: dict[str, int] = {}
        self.messages = 0
        self.bytes_total = 0
        self.refusal = ""
        self._begun_at = 0.0
        self._unread = Told()
        self._wanted: list[tuple[str, msgspec.Raw]] = []
        self._acknowledged = asyncio.Event()

    def say(self, kind: str, extra: msgspec.Raw) -> None:
        """Have a message of `kind` published next."""
        self._wanted.append((kind, extra))
        self._replica.committed.set()

    def begin(self, identity: Identity, prev: int) -> None:
        """A new life begins behind `prev`: what the old one had to say is not said any more."""
        self._wanted.clear()
        self.state.risen(identity, prev)

    async def reach(self, rn: int, timeout_s: float) -> int | None:
        """Wait until addition `rn` is acknowledged; return the last sequence of the chain then, None if it was not in time."""
        deadline = now_s() + timeout_s
        while self.state.replicated < rn:
            self._acknowledged.clear()
            try:
                async with within(deadline - now_s()):
                    await self._acknowledged.wait()
            except TimeoutError:
                return None
        return self.state.acked_seq

    @property
    def unsaid(self) -> bool:
        """True while something is to be said that the log has not acknowledged."""
        return bool(self._wanted)

    async def run(self) -> None:
        """Publish, for as long as this process may. Ends by cancellation, or when it must not write any more."""
        pause_s = DOUBT_PAUSE_S[0]
        while True:
            state = self.state.state
            if state is State.IDLE:
                pause_s = DOUBT_PAUSE_S[0]
                if await self._publish() == wire.LOST:
                    return  # we have said it ourselves: nothing follows
            elif state is State.DOUBT:
                if not await self._ask():
                    await asyncio.sleep(pause_s)
                    pause_s = min(DOUBT_PAUSE_S[1], pause_s * 2)
            elif state is State.PROBING:
                await self._probe()
            elif state is State.DEAD:
                await self._owner.rise()
            elif state is State.BACK:
                log.critical("the log has lost what it had acknowledged: nothing is published any more")
                return
            else:
                self._owner.refuse(f"another process publishes as node {self.state.identity.node!r}")
                return

    async def _publish(self) -> str:
        """Publish what is next, if anything is; return the kind of what was acknowledged."""
        message = await self._next()
        if message is None:
            return ""
        self._begun_at = message_at = now_s()
        data = wire.encode(message)
        while True:
            try:
                await self._put(data, message.prev)
                break
            except Busy as exc:
                if now_s() - message_at > BUSY_AT_MOST_S:
                    self._failed(exc)
                    return ""
                await asyncio.sleep(BUSY_S)
            except EngineError as exc:
                self._failed(exc)
                return ""
        self.ack.observe(now_s() - message_at)
        self.messages += 1
        self.bytes_total += len(data)
        if self._wanted and (message.kind, message.extra) == self._wanted[0]:
            del self._wanted[0]
        self._acknowledged.set()
        return message.kind

    async def _put(self, data: bytes, prev: int) -> None:
        # As it was when the message was sent: the answer may come behind the message itself.
        applied = self._applied()
        seq, _ = await self._engine.put(
            stream_name(self._cluster), subject_of(self._cluster, self.state.identity.node), data, prev
        )
        self.refusal = ""
        self.state.acked(seq, applied)

    def _failed(self, exc: EngineError) -> None:
        if not isinstance(exc, Conflict):
            self.refusal = str(exc)
        self.state.unsure()

    async def _next(self) -> Message | None:
        """Return what is to be published now; None after a while in which that was nothing."""
        replica, state = self._replica, self.state
        replica.committed.clear()
        if self._wanted:
            kind, extra = self._wanted[0]
            return state.message(kind, now_s(), extra)
        if replica.last > state.replicated:
            await asyncio.sleep(max(0.0, self._begun_at + self._pace_s - now_s()))
            if state.in_parts:  # it was read for the first of them
                return state.part(now_s())
            try:
                additions = await replica.read(state.replicated, wire.PART_BYTES)
            except JournalUnavailable as exc:
                if self._unread.is_new(exc):
                    log.error("what is to be published cannot be read: %s", exc)
                await asyncio.sleep(RETRY_S)
                return None
            self._unread.over()
            return state.add(additions, now_s())
        due_s = state.acked_at + self._beat_s - now_s()
        if due_s <= 0:
            return state.message(wire.BEAT, now_s(), wire.raw(self._owner.beat()))
        try:
            async with asyncio.timeout(due_s):
                await replica.committed.wait()
        except TimeoutError:
            pass
        return None

    async def _ask(self) -> bool:
        """Find out what the chain's last message is; False when that cannot be said just now."""
        name = self.state.identity.node
        try:
            head = await head_of(self._engine, self._cluster, name)
            first = 0 if head is not None else (await bounds(self._engine, self._cluster))[0]
        except EngineError as exc:
            self.refusal = str(exc)
            return False
        except (TooNew, Unreadable) as exc:
            self._owner.refuse(f"the chain of node {name!r} is not ours: {exc}")
            return False
        before = self.state.prev
        self.state.found(head, first)
        outcome = (
            self.state.state.name.lower()
            if self.state.state is not State.IDLE
            else ("not stored" if self.state.prev == before else "stored")
        )
        self.doubts[outcome] = self.doubts.get(outcome, 0) + 1
        if outcome == "stored" and self._wanted and head is not None and head.message.kind == self._wanted[0][0]:
            del self._wanted[0]
        self._acknowledged.set()
        return True

    async def _probe(self) -> None:
        message = self.state.probe(now_s())
        try:
            await self._put(wire.encode(message), message.prev)
        except EngineError as exc:
            self._failed(exc)
