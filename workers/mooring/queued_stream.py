"""What a process prints and logs, on its way to whoever reads it: a thread writes it, and nobody in the process waits.

A pipe that nobody reads, a terminal that was stopped with Ctrl-S, a slow disk: a write to them blocks, and on the event loop it
would be the API, the streams and the health check that stand still, or the sockets of a worker. It knows neither the form of a line
nor what it says.
"""

from __future__ import annotations

import io
import itertools
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

MAX_LINES = 10_000
MAX_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 * 1024  # of one write: what a pipe holds
FLUSH_S = 1.0
"""So long the end of the process waits for what is queued: whoever reads it may be dead."""


class _Line(NamedTuple):
    data: bytes
    dropped: int = 0  # of a notice: the lines that it stands for


class QueuedStream(io.TextIOBase):
    """A standard stream that never makes anybody wait.

    One that is full takes nothing more until half of it has been written; how many lines that cost is said in their place.

    Args:
        under: The stream whose descriptor is written, with its encoding.
        failed: Gets the first error of a write; what cannot be written is dropped.
    """

    encoding = "utf-8"  # in their place io has properties that cannot be set
    errors: str | None = None

    def __init__(self, under: TextIO, *, failed: Callable[[OSError], None] | None = None) -> None:
        super().__init__()
        self.dropped = 0  # lines, since the start
        self.notice: Callable[[int], str] = "{} lines were dropped: nobody has read them in time\n".format
        """Makes the line that stands for lines that were dropped; it is called in the writing thread."""
        self._descriptor = under.fileno()
        self.encoding, self.errors = under.encoding, under.errors
        self._failed = failed
        self._lines: deque[_Line] = deque()
        self._writing: list[_Line] = []
        self._written = 0  # bytes of them
        self._bytes = 0  # of both
        self._full = False
        self._untold = 0
        self._changed = threading.Condition()
        self._process = os.getpid()
        # A daemon: it may stand in a write for ever.
        threading.Thread(target=self._write_all, name=f"stream {self._descriptor}", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor that is written: whoever writes there may wait."""
        return self._descriptor

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Queue `text`, which is a line as a rule; it is dropped when there is no room."""
        data = self._encoded(text)
        if os.getpid() != self._process:
            write_whole(self._descriptor, data)  # a fork: nobody writes what is queued there
        elif data:
            with self._changed:
                if self._full or not self._has_room(len(data)):
                    self._full = True
                    self._drop(1)
                else:
                    self._lines.append(_Line(data))
                    self._bytes += len(data)
                    self._changed.notify_all()
        return len(text)

    def finish(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything that is queued has been written; False if that takes longer."""
        if os.getpid() != self._process:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    @property
    def unwritten(self) -> int:
        """How many lines have not been written as a whole: queued, or dropped and not told."""
        with self._changed:
            ends = itertools.accumulate(len(line.data) for line in self._writing)
            left = [line for line, end in zip(self._writing, ends, strict=True) if end > self._written]
            return self._untold + sum(line.dropped or 1 for line in (*left, *self._lines))

    def begin_with(self, lost: int) -> None:
        """Say first that so many lines were lost before there was this stream; of the last one a part may have been written."""
        if lost:
            with self._changed:
                self.dropped += lost
                self._lines.append(_Line(self._encoded("\n" + self.notice(lost)), lost))
                self._bytes += len(self._lines[-1].data)
                self._changed.notify_all()

    def _encoded(self, text: str) -> bytes:
        return text.encode(self.encoding, self.errors or "strict")

    def _has_room(self, size: int) -> bool:
        # What is larger by itself than all that may be queued passes when nothing else does.
        lines = len(self._lines) + len(self._writing)
        return not lines or (lines < MAX_LINES and self._bytes + size <= MAX_BYTES)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _write_all(self) -> None:
        """Write what is queued, in order. It never ends."""
        # Signals are for the main thread: the one that blocks them before another program takes over this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._full)
                self._tell_dropped()
                self._take()
            failure: OSError | None = None
            try:
                write_whole(self._descriptor, b"".join(line.data for line in self._writing), self._count)
            except OSError as exc:
                failure = exc
            with self._changed:
                for line in self._writing:
                    self._bytes -= len(line.data)
                    if failure is not None and line.dropped:
                        self._untold += line.dropped
                    elif failure is not None:
                        self._drop(1)
                self._writing, self._written = [], 0
                self._changed.notify_all()
            if failure is not None and self._failed is not None:
                self._failed(failure)
                self._failed = None

    def _count(self, size: int) -> None:
        self._written += size

    def _tell_dropped(self) -> None:
        if self._full and (len(self._lines) > MAX_LINES / 2 or self._bytes > MAX_BYTES / 2):
            return
        if self._untold:
            notice = _Line(self._encoded(self.notice(self._untold)), self._untold)
            # Behind what came before it was full; before what comes after a write that has failed.
            self._lines.append(notice) if self._full else self._lines.appendleft(notice)
            self._bytes += len(notice.data)
            self._untold = 0
        self._full = False

    def _take(self) -> None:
        size = 0
        while self._lines and (not self._writing or size + len(self._lines[0].data) <= CHUNK_BYTES):
            self._writing.append(self._lines.popleft())
            size += len(self._writing[-1].data)


def write_whole(descriptor: int, data: bytes, count: Callable[[int], None] = lambda size: None) -> None:
    """Write all of `data`, however long it takes; `count` hears how much of it has been, each time.

    Raises:
        OSError: If it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        try:
            # A blocking write to a pipe returns when all of it is taken: in pieces it is known how much was.
            size = os.write(descriptor, rest[: select.PIPE_BUF])
            count(size)
            rest = rest[size:]
        except BlockingIOError:  # somebody who shares it has made it so
            ready = select.poll()
            ready.register(descriptor, select.POLLOUT)
            ready.poll()
