"""What one socket sends: frames, and the queue of a peer that does not read, within a bound and until a deadline.

Frames go out whole. Whoever sends is told what became of what had to wait, by the ticket that came with it; what a ticket
stands for is unknown here. On the I/O loop only.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from mooring.deadline import Deadline
from mooring.wire.frames import CLOSE, PONG, Deflater, encode_frame

NEVER = float("inf")


class Sender(Protocol):
    """Who sends, and is told about what has to wait."""

    def waits(self) -> None:
        """Something has to wait; told of each."""

    def written(self, ticket: Any, count: int, size: int) -> None:
        """`count` messages of `size` bytes, queued with `ticket`, were written."""

    def unwritten(self, ticket: Any, size: int, *, stalled: bool) -> None:
        """What was queued with `ticket` never will be: its time is over (`stalled`), or nothing more is sent here."""

    def caught_up(self) -> None:
        """The peer has read all that has waited here."""


class _Queued(msgspec.Struct, frozen=True):
    """Messages, or our close frame, that wait for the peer to read.

    Not yet frames: what is compressed must be sent, or the peer could not inflate what follows (RFC 7692 section 7.1.1).
    """

    ticket: Any
    opcode: int
    payloads: list[bytes]
    size: int
    deadline: float


class Outbound:
    """The sending side of one socket.

    Args:
        max_bytes: From here on `has_room` says no.

    Attributes:
        queued_bytes: Of the messages that wait for the peer to read.
        paused: The peer reads too slowly: the transport has said so.
        written_bytes: Of the frames that were written.
        frame_sizes: Of the frames that were written last, where it was several.
        close_sent: Our close frame has been written: nothing follows it.
    """

    __slots__ = (
        "_deflater", "_loop", "_max_bytes", "_pong_owed", "_queue", "_sender", "_timer", "_transport", "close_sent",
        "frame_sizes", "paused", "queued_bytes", "written_bytes",
    )  # fmt: skip

    def __init__(
        self,
        sender: Sender,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        deflater: Deflater | None,
        max_bytes: int,
    ) -> None:
        self._sender = sender
        self._loop = loop
        self._transport = transport
        self._deflater = deflater
        self._max_bytes = max_bytes
        self._queue: deque[_Queued] | None = None  # while nothing waits: an empty one is large
        self._timer: Deadline | None = None
        self._pong_owed: bytes | None = None
        self.queued_bytes = 0
        self.written_bytes = 0
        self.frame_sizes: Sequence[int] = ()
        self.paused = False
        self.close_sent = False

    def write_now(self, opcode: int, payloads: list[bytes]) -> bool:
        """Write messages if nothing waits before them, and say whether they were written."""
        if self.paused or self._queue or self._transport.is_closing():
            return False
        data = self._frames(opcode, payloads)
        self.written_bytes += len(data)
        self._transport.write(data)
        return True

    @property
    def idle(self) -> bool:
        """Say whether `write_now` would write."""
        return not (self.paused or self._queue or self._transport.is_closing())

    @property
    def unflushed(self) -> int:
        """Bytes that were written, and that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def has_room(self, size: int) -> bool:
        """Say whether `size` bytes more may wait; one entry may, however long it is."""
        return not self._queue or self.queued_bytes + size <= self._max_bytes

    def queue(self, ticket: Any, opcode: int, payloads: list[bytes], size: int, timeout_s: float = NEVER) -> None:
        """Have messages of `size` bytes wait until the peer reads again, for at most `timeout_s`."""
        self._put(_Queued(ticket, opcode, payloads, size, self._loop.time() + timeout_s))

    def pong(self, payload: bytes) -> None:
        """Answer a ping; while the peer does not read, only the latest one is (RFC 6455 section 5.5.3)."""
        if self.paused:
            self._pong_owed = payload
        else:
            self.write(encode_frame(PONG, payload, os.urandom(4)))

    def close(self, payload: bytes) -> None:
        """Write the close frame, behind what is queued. No pong follows it."""
        self._pong_owed = None
        if self._queue:
            self._put(_Queued(None, CLOSE, [payload], 0, NEVER))
        else:
            self._write_close(payload)

    def _write_close(self, payload: bytes) -> None:
        self.write(self._frames(CLOSE, [payload]))
        self.close_sent = True

    def write(self, data: bytes) -> None:
        """Write whole frames now."""
        if not self._transport.is_closing():
            self.written_bytes += len(data)
            self._transport.write(data)

    def _frames(self, opcode: int, payloads: list[bytes]) -> bytes:
        masks = os.urandom(4 * len(payloads))
        if self._deflater is not None and opcode != CLOSE:
            compress = self._deflater.compress
            frames = [
                encode_frame(opcode, compress(payload), masks[4 * index : 4 * index + 4], compressed=True)
                for index, payload in enumerate(payloads)
            ]
        elif len(payloads) == 1:
            return encode_frame(opcode, payloads[0], masks)
        else:
            frames = [
                encode_frame(opcode, payload, masks[4 * index : 4 * index + 4])
                for index, payload in enumerate(payloads)
            ]
        if len(frames) == 1:
            return frames[0]
        self.frame_sizes = [len(frame) for frame in frames]
        return b"".join(frames)

    def _put(self, queued: _Queued) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(queued)
        self.queued_bytes += queued.size
        self._sender.waits()
        if self._timer is None and queued.deadline != NEVER:
            self._timer = Deadline(self._loop, queued.deadline, self._drop_overdue)

    def _drop_overdue(self) -> None:
        """Give up what the peer did not read in time: it was not written, and will not be."""
        self._timer = None
        now = self._loop.time()
        waiting = self._queue or ()
        overdue = [queued for queued in waiting if queued.deadline <= now]
        self._queue = deque(queued for queued in waiting if queued.deadline > now) or None
        for queued in overdue:
            self.queued_bytes -= queued.size
            self._sender.unwritten(queued.ticket, queued.size, stalled=True)
        due = min((queued.deadline for queued in self._queue or ()), default=NEVER)
        if due != NEVER:
            self._timer = Deadline(self._loop, due, self._drop_overdue)

    def resume(self) -> None:
        """The peer has caught up: write what waits, until it falls behind again."""
        self.paused = False
        if self._pong_owed is not None:
            owed, self._pong_owed = self._pong_owed, None
            self.write(encode_frame(PONG, owed, os.urandom(4)))
        while self._queue and not self.paused and not self._transport.is_closing():
            queued = self._queue.popleft()
            self.queued_bytes -= queued.size
            if queued.opcode == CLOSE:
                self._write_close(queued.payloads[0])
                continue
            self.write(self._frames(queued.opcode, queued.payloads))
            self._sender.written(queued.ticket, len(queued.payloads), queued.size)
        if not self._queue:
            self._queue = None
        if not self.paused:
            self._sender.caught_up()

    def drop(self) -> None:
        """Nothing of what waits is sent any more, our close frame included."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dropped, self._queue = self._queue, None
        self.queued_bytes = 0
        for queued in dropped or ():
            if queued.opcode != CLOSE:
                self._sender.unwritten(queued.ticket, queued.size, stalled=False)
