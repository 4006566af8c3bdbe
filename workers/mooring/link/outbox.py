"""Numbered events, kept until the service says that they are stored.

Recorders (the I/O loop for connections without a handler, the context thread for the others) add *runs* of events.
The I/O loop flushes them into frames: columns of events, and the records that changed with them. A frame keeps its
number and its bytes until it is acknowledged, so that a resend is exactly what was sent before. What of a frame cannot be made, or
told, is left out, and the log says so: the rest of it goes its way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from mooring import bodies as column
from mooring.link.channel import frame
from mooring.link.messages import AskCall, AskKill, Events
from mooring.link.record import ConnectionCreated, ConnectionUpdate

FRAME_BYTES = 1024 * 1024  # a frame is cut after the run that takes it past this
FRAME_CONNECTIONS = 500  # … and after so many: the service folds their records in one step of its loop
GROUP_BYTES = 64 * 1024  # so many bytes of events wait for no other frame

log = logging.getLogger("mooring.link")


class Recorded(Protocol):
    """What the outbox asks of a connection."""

    id_bytes: bytes
    recorded_seq: int

    def take_created(self) -> ConnectionCreated | None:
        """Return the unchanging part of the record, the first time."""

    def update(self) -> ConnectionUpdate | None:
        """Return the changing part of the record, as of `recorded_seq`; None for what has no record."""

    def mark_ended(self) -> None:
        """A frame now holds the last event."""


class Watcher(Protocol):
    """Who waits for what it has recorded to be stored."""

    def framed(self, number: int) -> None:
        """Frame `number` was made, of all that was added before."""

    def stored(self, number: int) -> None:
        """The journal holds all frames up to `number`."""

    def __hash__(self) -> int:
        """It is known by itself."""


Run = tuple[Recorded, bytes, bytes, int, bool]
"""Of one connection: kinds and bodies of events, the number of the last, and whether no event of it follows."""


class Outbox:
    """The events of one worker process on their way to the journal.

    Args:
        max_bytes: From here on `full` says that nothing more should be recorded.
        send: Writes a frame if there is a link, and says whether it did.
        on_room: Called on the I/O loop when a full outbox has room again.
    """

    def __init__(self, max_bytes: int, send: Callable[[bytes], bool], on_room: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._send = send
        self._on_room = on_room
        # Appended to by two threads, emptied by one: deque's append and popleft are atomic.
        self._runs: deque[Run] = deque()
        self._asks: deque[tuple[AskCall | AskKill, int]] = deque()
        self._changed: dict[Recorded, None] = {}
        self._watchers: dict[Watcher, None] = {}
        self._frames: deque[tuple[int, bytes]] = deque()
        self._frame_bytes = 0
        self._unsent = 0  # how many of _frames, counted from the newest, were never handed to a link
        self._unsent_bytes = 0
        self._was_full = False
        self.number = 0
        # Two counters, each written by one thread (or under the lock), instead of one that both would race on.
        self._lock = threading.Lock()
        self._added_bytes = 0
        self._flushed_bytes = 0
        self._began_at_us = 0
        self._failures: set[str] = set()  # kinds of them

    @property
    def held_bytes(self) -> int:
        """Bytes not yet stored by the journal."""
        return self._frame_bytes + self._added_bytes - self._flushed_bytes

    @property
    def held_frames(self) -> int:
        """Frames not yet stored by the journal."""
        return len(self._frames)

    @property
    def unsent(self) -> int:
        """Frames that no link has taken yet."""
        return self._unsent

    @property
    def sent_bytes(self) -> int:
        """Bytes that the link has taken, and that are not stored yet."""
        return self._frame_bytes - self._unsent_bytes

    @property
    def full(self) -> bool:
        """True when recorders must wait; once it was, `on_room` follows."""
        # `held_bytes`, without a call: this is asked for each message.
        if self._frame_bytes + self._added_bytes - self._flushed_bytes < self._max_bytes:
            return False
        self._was_full = True
        # Again: what was stored between the two lines has told nobody that there is room.
        return self.held_bytes >= self._max_bytes

    @property
    def first_unstored(self) -> int:
        """Number of the oldest frame that may have to be sent again; `number` + 1 when there is none."""
        return self._frames[0][0] if self._frames else self.number + 1

    def add(self, connection: Recorded, kinds: bytes, bodies: bytes, seq: int, *, ended: bool = False) -> None:
        """Add a run of events of one connection, from any thread; `seq` is that of the last of them.

        `ended` marks that no event of this connection will follow.
        """
        if not self._runs:
            self._began_at_us = time.monotonic_ns() // 1000
        with self._lock:
            self._added_bytes += len(bodies)
        self._runs.append((connection, kinds, bodies, seq, ended))

    def ask(self, ask: AskCall | AskKill, size: int = 0) -> None:
        """Add what code in the worker asks of the service, `size` bytes in all, from any thread.

        It is numbered like events, so a frame that is sent again asks for nothing twice.
        """
        with self._lock:
            self._added_bytes += size
        self._asks.append((ask, size))

    def touch(self, connection: Recorded) -> None:
        """Have the connection's record reported with the next flush. On the I/O loop only."""
        self._changed[connection] = None

    def flush_behind(self) -> bool:
        """Flush, unless a frame is on its way to the journal: what comes meanwhile shares the next one. On the I/O loop only.

        What comes after quiet leaves at once; under load there is one frame for each commit, and it leaves in the pass of the loop in which
        the one before it is told as stored. Who must not wait flushes. False: something waits.
        """
        if not self.holds:
            self.flush()
            return True
        return not (self._runs or self._changed or self._asks)

    @property
    def holds(self) -> bool:
        """Whether what is added now waits for a frame that is on its way. Any thread may ask, behind its `add`."""
        return bool(self._frames) and self._added_bytes - self._flushed_bytes < GROUP_BYTES

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of frames from now on, until `unwatch`. On the I/O loop only."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """`watcher` waits for nothing any more."""
        self._watchers.pop(watcher, None)

    def flush(self) -> None:
        """Make frames of all that was added, and send them. On the I/O loop only."""
        runs = self._runs
        changed = self._changed
        while runs or changed or self._asks:
            asks: list[AskCall | AskKill] = []
            asked = 0
            while self._asks and asked < FRAME_BYTES:
                ask, ask_size = self._asks.popleft()
                asks.append(ask)
                asked += ask_size
            ids: list[bytes] = []
            kinds: list[bytes] = []
            bodies: list[bytes] = []
            gone: list[Recorded] = []
            size = 0
            for _ in range(len(runs)):
                run = runs.popleft()
                if len(run[2]) > FRAME_BYTES and len(run[1]) > 1:
                    run = self._cut(run)
                connection, run_kinds, run_bodies, seq, ended = run
                changed[connection] = None
                connection.recorded_seq = seq
                if ended:
                    gone.append(connection)
                if run_kinds:
                    ids.append(connection.id_bytes * len(run_kinds))
                    kinds.append(run_kinds)
                    bodies.append(run_bodies)
                    size += len(run_bodies)
                    if size >= FRAME_BYTES or len(changed) >= FRAME_CONNECTIONS:
                        break
            for connection in gone:
                connection.mark_ended()
            number = self.number + 1
            created, updates = _records_of(changed, self._failed)
            changed.clear()
            events = Events(
                number,
                b"".join(ids),
                b"".join(kinds),
                b"\n".join(bodies),
                created,
                updates,
                asks,
                self._began_at_us if kinds else 0,
            )
            try:
                data = _frame_of(events, self._failed)
            finally:  # also of what cannot be made into a frame
                self._flushed_bytes += size + asked
            self.number = number  # before there is a frame nothing may wait for it
            self._frames.append((number, data))
            self._frame_bytes += len(data)
            self._unsent += 1
            self._unsent_bytes += len(data)
            for watcher in tuple(self._watchers):
                try:
                    watcher.framed(number)
                except Exception as exc:  # noqa: BLE001 - whatever it is: it holds up no other
                    self._failed("who waits for a frame", exc)
            if self._unsent == 1:
                self.send_unsent()

    def _failed(self, what: str, exc: Exception) -> None:
        kind = f"{what}: {type(exc).__name__}"
        if kind not in self._failures:  # each kind once: another one may follow with each frame
            self._failures.add(kind)
            log.error("%s is left out: %r", what, exc, exc_info=exc)

    def _cut(self, run: Run) -> Run:
        """Cut `run` so that each piece ends with the event that takes it past `FRAME_BYTES`; return the first, and put back the others.

        A few kilobytes that were compressed may become more events than one frame of the link can hold.
        """
        connection, kinds, bodies, seq, ended = run
        lines = column.split(bodies, len(kinds))
        pieces: list[tuple[int, int]] = []  # from event, to event
        begin = size = 0
        for index, line in enumerate(lines, 1):
            size += len(line)
            if size >= FRAME_BYTES or index == len(lines):
                pieces.append((begin, index))
                begin, size = index, 0
        with self._lock:
            self._added_bytes -= len(pieces) - 1  # line feeds between them, which nobody flushes
        for begin, end in reversed(pieces):
            last = end == len(lines)
            piece = (kinds[begin:end], b"\n".join(lines[begin:end]), seq - len(lines) + end)
            self._runs.appendleft((connection, *piece, ended and last))
        return self._runs.popleft()

    def send_unsent(self) -> None:
        """Hand over frames that the link could not take before, oldest first."""
        while self._unsent:
            data = self._frames[-self._unsent][1]
            if not self._send(data):
                return
            self._unsent -= 1
            self._unsent_bytes -= len(data)

    def resend(self, stored: int) -> None:
        """A new link: forget all up to number `stored`, and send all the rest again."""
        self.stored(stored)
        self._unsent, self._unsent_bytes = len(self._frames), self._frame_bytes
        self.send_unsent()

    def stored(self, number: int) -> None:
        """The journal holds all frames up to `number`."""
        frames = self._frames
        while frames and frames[0][0] <= number:
            size = len(frames.popleft()[1])
            self._frame_bytes -= size
            if self._unsent > len(frames):
                self._unsent -= 1
                self._unsent_bytes -= size
        for watcher in tuple(self._watchers):
            try:
                watcher.stored(number)
            except Exception as exc:  # noqa: BLE001 - as above
                self._failed("who waits for what is stored", exc)
        if self._was_full and self.held_bytes < self._max_bytes // 2:
            self._was_full = False
            self._on_room()


def _records_of(
    changed: Iterable[Recorded], failed: Callable[[str, Exception], None]
) -> tuple[list[ConnectionCreated], list[ConnectionUpdate]]:
    """Return the unchanging parts that were not told before, and the changing ones."""
    created: list[ConnectionCreated] = []
    updates: list[ConnectionUpdate] = []
    for connection in changed:
        try:
            if (first := connection.take_created()) is not None:
                created.append(first)
            if (update := connection.update()) is not None:
                updates.append(update)
        except Exception as exc:  # noqa: BLE001 - whatever it is: it holds up no other
            failed("the record of a connection", exc)
    return created, updates


def _frame_of(events: Events, failed: Callable[[str, Exception], None]) -> bytes:
    """Return the frame of `events`, without what cannot stand in one."""

    def fits(one: object) -> bool:
        try:
            return bool(frame(one))
        except Exception as exc:  # noqa: BLE001 - as above
            failed(f"a {type(one).__name__}", exc)
            return False

    try:
        return frame(events)
    except Exception:  # noqa: BLE001 - what it is about is found now
        created = [one for one in events.created if fits(one)]
        updates = [one for one in events.updates if fits(one)]
        asks = [one for one in events.asks if fits(one)]
        return frame(msgspec.structs.replace(events, created=created, updates=updates, asks=asks))
