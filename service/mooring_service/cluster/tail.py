"""The log, read in its order into `cluster.db`: each message once, and none left out.

Owns where the reader is and when it begins anew. What a message means is the fold's affair; what is committed goes to whoever shows it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from mooring.deadline import first_of
from mooring.told import Told
from mooring_service.cluster.copy import Copy, Pair, additions_of
from mooring_service.cluster.engine import Engine, EngineError, Refused, Stored
from mooring_service.cluster.fold import Diverged, Fold, FoldedAsk, Folding
from mooring_service.cluster.message import TooNew
from mooring_service.cluster.objects import bounds, stream_name
from mooring_service.cluster.position import position_of
from mooring_service.cluster.pulls import Pull
from mooring_service.journal.sparse import SparseJournal

PAUSE_S = (0.1, 1.0)
QUEUED_BYTES = 16 << 20  # folded and not yet committed: above it the log is not read
REST_S = 0.005

log = logging.getLogger("mooring.cluster")


class Unwritten:
    """What was folded of pieces, and is written with the next message: mostly that is the last piece, and then none of them need be kept."""

    def __init__(self) -> None:
        self._held: Folding | None = None

    def take(self, folding: Folding) -> Folding | None:
        """Take what follows; return what is to be written now, in one transaction."""
        if self._held is not None:
            folding.changes = {**self._held.changes, **folding.changes}
        self._held = folding if folding.is_piece else None
        return None if folding.is_piece else folding

    def rest(self) -> Folding | None:
        """Return what is held, which is to be written now."""
        held, self._held = self._held, None
        return held


class Tail:
    """Reads the log.

    Attributes:
        failure: Why it is not read just now; "" while it is.
        stopped: Why it is not read any more: the log is another one, or of a later mooring (`too_new`).
        rebuilds: How often it was begun anew, by reason.
        first: The first message that the log holds, as it was looked last.
        gaps: How often the log no longer had what comes next.
        caught_up: Set once all that the log held was read.
        on_asks: Called with what code in workers asks for, once it is committed.
        find_copy: Returns what a peer has folded, when the log no longer has what comes next; None if nobody has it.
        known: Returns the records that this node has.
        on_crossed: Called when the fold was gone on with behind a hole.
    """

    def __init__(self, engine: Engine, cluster: str, fold: Fold, journal: SparseJournal) -> None:
        self._engine = engine
        self._cluster = cluster
        self._fold = fold
        self._journal = journal
        self.on_asks: Callable[[list[FoldedAsk]], None] = lambda asks: None
        self.find_copy: Callable[[], Awaitable[Copy | None]] = _nobody
        self.known: Callable[[], Iterable[Pair]] = tuple
        self.on_crossed: Callable[[], None] = lambda: None
        self.first = 1
        self.failure = "not read yet"
        self.stopped = ""
        self.too_new = False
        self.rebuilds: dict[str, int] = {}
        self.gaps = 0
        self.pending = 0
        self.caught_up = asyncio.Event()
        self.behind_since: float | None = time.monotonic()
        self.shown = fold.applied  # up to here it is committed, and handed on
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._unwritten = Unwritten()
        self._refused, self._gone = Told(), Told()

    async def run(self) -> None:
        """Read on. Ends by cancellation, or when the log cannot be read any more (`stopped`)."""
        pause_s = PAUSE_S[0]
        while not self.stopped:
            await self._engine.up.wait()
            try:
                pull = Pull(self._engine, stream_name(self._cluster), self._fold.applied + 1)
                try:
                    self.first, last = await bounds(self._engine, self._cluster)
                    if self._look_at_bounds(last):
                        await self._cross()
                        continue
                    await pull.open()
                    await self._read(pull)
                finally:
                    await pull.close()
            except (EngineError, _Hole) as exc:
                self.failure = str(exc)
                self._is_behind()
                why = type(exc).__name__.strip("_").lower()
                self.rebuilds[why] = self.rebuilds.get(why, 0) + 1
                if isinstance(exc, Refused) and self._refused.is_new(exc):
                    log.error("the log cannot be read: %s", exc)
            except (Diverged, TooNew) as exc:
                self.stopped = self.failure = str(exc)
                self.too_new = isinstance(exc, TooNew)
                log.critical("the log is not read any more: %s", exc)
                return
            pause_s = min(PAUSE_S[1], pause_s * 2) if self.failure else PAUSE_S[0]
            await asyncio.sleep(pause_s)

    def _look_at_bounds(self, last: int) -> bool:
        """Say whether what comes next is gone."""
        applied = self._fold.applied
        if applied > last:
            raise Diverged(f"message {applied} was read, and the log ends at {last}: it went back")
        if applied + 1 < self.first:
            self.failure = "what comes next is not kept any more"
            return True
        self._note(last - applied)
        return False

    async def _cross(self) -> None:
        """Go on behind what the log no longer has: with what a peer has folded, or, if nobody has it, at the first message that is kept."""
        self._write(self._unwritten.rest())
        before = self._fold.applied
        if self._gone.is_new(before):  # it is tried again while peers and the engine cannot be asked
            log.error("messages %d to %d of the log are gone before they were read", before + 1, self.first - 1)
        copy = await self.find_copy()
        appends = []
        if copy is None:
            self.first, _ = await bounds(self._engine, self._cluster)
            self._fold.applied = self.first - 1
            log.error("no peer has what was missed: it goes on at message %d", self.first)
        else:
            appends = additions_of(copy, self.known())
            self._fold.recover(copy.folded.folded)
            self._journal.epoch = self._fold.epoch
        applied = self._fold.applied
        self.gaps += 1
        hole = position_of(before + 1) - 1, position_of(applied + 1) - 1
        self._journal.cross(hole, appends, applied, None if copy is None else copy.folded).add_done_callback(
            partial(self._show, Folding(applied, appends, {}))
        )
        self.on_crossed()

    def _note(self, pending: int) -> None:
        self.pending = pending
        if not pending:
            self.behind_since = None
            self.caught_up.set()
        else:
            self._is_behind()

    def _is_behind(self) -> None:
        if self.behind_since is None:
            self.behind_since = time.monotonic()

    async def _read(self, pull: Pull) -> None:
        while True:
            received = await pull.next()
            self._refused.over()
            for stored in received:
                self.failure = ""
                if stored.seq <= self._fold.applied:
                    continue
                if stored.seq != self._fold.applied + 1:
                    raise _Hole(f"message {stored.seq} came behind {self._fold.applied}")
                self._write(self._unwritten.take(await self._take(stored)))
                if any(wanted <= stored.seq for wanted, _ in self._waiting):
                    self._write(self._unwritten.rest())
            self.failure = ""
            self._note(pull.pending)
            while self._journal.queued_bytes > QUEUED_BYTES:  # a disk: there is no event to wait for
                await asyncio.sleep(REST_S)

    async def _take(self, stored: Stored) -> Folding:
        try:
            return self._fold.take(stored.seq, stored.subject, stored.data, self.first)
        except Diverged:  # or what it follows has gone since the bounds were looked at
            before, self._fold.applied = self.first, stored.seq - 1
            self.first, _ = await bounds(self._engine, self._cluster)
            if self.first <= before:
                raise
            return self._fold.take(stored.seq, stored.subject, stored.data, self.first)

    def _write(self, folding: Folding | None) -> None:
        if folding is not None:
            self._journal.fold(folding.appends, folding.seq, folding.changes, folding.keys).add_done_callback(
                partial(self._show, folding)
            )

    def _show(self, folding: Folding, committed: asyncio.Future[None]) -> None:
        if committed.cancelled() or committed.exception() is not None:
            return  # cluster.db is closed
        if folding.asks:  # not before: what was read is not read again, so they are done once at most
            self.on_asks(folding.asks)
        self.shown = max(self.shown, folding.seq)
        left = []
        for wanted, future in self._waiting:
            if wanted > self.shown:
                left.append((wanted, future))
            elif not future.done():
                future.set_result(None)
        self._waiting = left

    async def reach(self, seq: int, timeout_s: float) -> bool:
        """Wait until the message at `seq` is folded and shown; say whether it was in time."""
        if self.shown >= seq:
            return True
        if (
            seq <= self._fold.applied
        ):  # it may be a piece, and nobody knows when the next one comes: here and in `_read`
            self._write(self._unwritten.rest())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((seq, future))
        try:
            return bool(await first_of((future,), timeout_s))
        finally:
            if not future.done():  # nothing may come any more that would take it off
                self._waiting = [one for one in self._waiting if one[1] is not future]

    @property
    def lag_s(self) -> float:
        """For how long there has been something that was not read, as far as is known; while nothing can be read, there may be."""
        return 0.0 if self.behind_since is None else time.monotonic() - self.behind_since


async def _nobody() -> None:
    return None


class _Hole(Exception):
    """What comes next did not come."""
