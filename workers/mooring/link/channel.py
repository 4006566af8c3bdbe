"""Length-prefixed frames over a Unix stream, batched; the same code at both ends of the link.

A frame is four bytes of length (big-endian) and one msgpack message. What is sent during one pass of the event loop
leaves in one write; what arrives in one read is handed over in one call. A frame is bounded by `MAX_FRAME_BYTES`. What waits to be
written is not: who sends must look at `congested`, or at `waiting_bytes`. Reading can be stopped (`pause_reading`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from mooring.errors import LinkError

MAX_FRAME_BYTES = 256 * 1024 * 1024  # a message at its ceiling (32 MiB), escaped as JSON at its worst (6 ×), and room
MAX_COMMAND_BYTES = (
    MAX_FRAME_BYTES - 16 * 1024 * 1024
)  # what a request may bring: beside it a frame holds its head, or a batch
WRITE_HIGH_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024

Message = TypeVar("Message")
_encode = msgspec.msgpack.Encoder().encode
_length = struct.Struct(">I")


def frame(message: object) -> bytes:
    """Return `message` as one frame.

    Raises:
        LinkError: If it is longer than the other end takes: nothing was sent, and the link goes on.
    """
    body = _encode(message)
    if len(body) > MAX_FRAME_BYTES:
        what = type(message).__name__
        raise LinkError(f"{what} of {len(body)} bytes: at most {MAX_FRAME_BYTES} fit between service and worker")
    return _length.pack(len(body)) + body


class FrameSplitter:
    """Cuts a byte stream into the payloads of its frames. Pure."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._chunks: list[bytes] = []
        self._held = 0
        self._need = 4

    def feed(self, data: bytes) -> list[memoryview]:
        """Take bytes; return the complete payloads, in order. They are views into memory that nobody changes.

        Raises:
            LinkError: If a frame is longer than the bound.
        """
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
        view = memoryview(data)
        found: list[memoryview] = []
        pos = 0
        end = len(data)
        while end - pos >= 4:
            (length,) = _length.unpack_from(data, pos)
            if length > self._max:
                raise LinkError(f"a frame of {length} bytes on the link; at most {self._max} are allowed")
            if end - pos - 4 < length:
                self._need = length + 4
                break
            found.append(view[pos + 4 : pos + 4 + length])
            pos += 4 + length
        else:
            self._need = 4
        if pos < end:
            self._chunks.append(data[pos:] if pos else data)
            self._held = end - pos
        return found


class Channel(asyncio.Protocol, Generic[Message]):
    """One end of the link.

    Args:
        decoder: Of the union that the other end sends.
        on_messages: Called with the messages of each read, in order; a `LinkError` that it raises ends the stream.
        on_lost: Called once, with the reason (None: a clean end of stream).
        on_drained: Called when a congested channel can be written to again.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Message],
        on_messages: Callable[[Channel[Message], list[Message]], None],
        on_lost: Callable[[Channel[Message], Exception | None], None],
        on_drained: Callable[[], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self.on_messages = on_messages  # the service replaces it once it knows whose stream this is
        self._on_lost = on_lost
        self.on_drained = on_drained  # as `on_messages`
        self._splitter = FrameSplitter()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._failure: Exception | None = None
        self._own: int | None = None  # a descriptor of the same stream, which no failure of the transport closes
        self._reading_paused = False
        self._loop = asyncio.get_running_loop()
        self.congested = False

    @property
    def open(self) -> bool:
        """True while frames can be written."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: object) -> None:
        """Queue one message; it leaves with the others of this pass of the loop. After the end: nothing happens.

        Raises:
            LinkError: As `frame`.
        """
        self.send_frame(frame(message))

    def send_frame(self, data: bytes) -> None:
        """Queue one frame that is already encoded."""
        if not self.open:
            return
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(data)
        self._pending_bytes += len(data)

    @property
    def queued(self) -> int:
        """How many messages wait for the end of this pass of the loop."""
        return len(self._pending)

    def flush(self) -> None:
        """Write what is queued, in one write."""
        pending = self._pending
        if pending and self._transport is not None and not self._transport.is_closing():
            self._pending = []
            self._pending_bytes = 0
            self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were given to `send`, and that the other end has not taken."""
        return self._pending_bytes + (0 if self._transport is None else self._transport.get_write_buffer_size())

    def pause_reading(self) -> None:
        """Read nothing for now: the other end feels it. Idempotent."""
        if self._transport is not None and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again. Idempotent."""
        if self._transport is not None and self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Write what is queued, then end the stream."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the stream at once."""
        if self._transport is not None:
            self._transport.abort()

    def peer_socket(self) -> Any:
        """Return the socket, for its peer's credentials; None before the stream is made."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def read_to_the_end(self) -> None:
        """From now on read what the other end says before it goes, also where we learn by a write that it has gone."""
        if self.open and self._own is None:
            with contextlib.suppress(OSError):  # no descriptor is left for it
                self._own = os.dup(self.peer_socket().fileno())

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of asyncio's
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        """Decode the frames of one read and hand them over."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._splitter.feed(data)]
        # A text that is not UTF-8, and values nested too deeply, are told by the interpreter's own errors.
        except (LinkError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            self._fail(LinkError(f"the link cannot be understood: {exc}"))
            return
        if messages:
            self.hand_over(messages)

    def hand_over(self, messages: list[Message]) -> None:
        """Hand over messages of this stream; a `LinkError` that this raises ends it."""
        try:
            self.on_messages(self, messages)
        except LinkError as exc:
            self._fail(exc)

    def _fail(self, failure: LinkError) -> None:
        self._failure = failure
        self.abort()

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.congested = True

    def resume_writing(self) -> None:
        """The other end has caught up."""
        self.congested = False
        if self.on_drained is not None:
            self.on_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, once."""
        self._transport = None
        self._pending.clear()
        try:
            if self._own is not None:
                self._read_rest(self._own, failed=isinstance(exc, OSError))
        finally:  # also where what was said cannot be taken
            self._on_lost(self, self._failure or exc)

    def _read_rest(self, own: int, *, failed: bool) -> None:
        """Hand over what the other end has said before it was gone: a transport whose write has failed reads nothing any more."""
        try:
            while failed and self._failure is None and (data := os.read(own, READ_BYTES)):
                self.data_received(data)
        except OSError:  # that was all, and no end of stream behind it
            pass
        finally:
            os.close(own)
