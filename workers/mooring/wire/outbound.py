"""What a connection sends: frames, the queue of a peer that does not read, and the deadlines of those who wait for it.

Frames go out whole; what cannot be written at once waits here, within a bound and until a deadline. On the I/O loop only.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from mooring.connection.state import ConnectionState
from mooring.link.messages import Send, SendFailed, Sent
from mooring.wire.frames import BINARY, CLOSE, PONG, TEXT, Deflater, encode_frame

if TYPE_CHECKING:
    import asyncio

    from mooring.connection.connection import Connection
    from mooring.process.runtime import Runtime


class _Queued(msgspec.Struct, frozen=True):
    """Messages, or our close frame, that wait for the peer to read; `request` 0 came from code in the worker.

    Not yet frames: what is compressed must be sent, or the peer could not inflate what follows (RFC 7692 section 7.1.1).
    """

    request: int
    opcode: int
    payloads: list[bytes]
    size: int
    deadline: float
    key: str | None = None  # of an Idempotency-Key


class Outbound:
    """The sending side of one connection that is, or was, Connected."""

    __slots__ = (
        "_connection",
        "_deflater",
        "_pong_owed",
        "_queue",
        "_runtime",
        "_timer",
        "_transport",
        "close_sent",
        "paused",
        "queued_bytes",
    )

    def __init__(
        self, runtime: Runtime, connection: Connection, transport: asyncio.Transport, deflater: Deflater | None
    ) -> None:
        self._runtime = runtime
        self._connection = connection
        self._transport = transport
        self._deflater = deflater
        self._queue: deque[_Queued] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._pong_owed: bytes | None = None
        self.queued_bytes = 0
        self.paused = False  # the peer reads too slowly: the transport has said so
        self.close_sent = False

    def send(self, command: Send) -> Sent | SendFailed | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again."""
        connection = self._connection
        size = sum(map(len, command.payloads))
        opcode = BINARY if command.binary else TEXT
        count = len(command.payloads)
        if not self.paused and not self._queue:
            self.write(self._frames(opcode, command.payloads))
            connection.count_sent(count, size)
            return Sent(command.request, count, size, connection.messages_out, connection.bytes_out)
        if command.key is not None:
            for index, queued in enumerate(self._queue):
                if queued.key == command.key:
                    # Asked again after a crash of the service: it waits already, and is written once.
                    self._queue[index] = msgspec.structs.replace(queued, request=command.request)
                    return None
        if self._queue and self.queued_bytes + size > self._runtime.settings.outbound_bytes:
            return SendFailed(command.request, 0, connection.state.value, stalled=True)
        deadline = self._runtime.loop.time() + connection.options.send_timeout_s
        self._put(_Queued(command.request, opcode, command.payloads, size, deadline, command.key))
        return None

    def send_from_worker(self, opcode: int, payload: bytes) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand (`Runtime.reserve`)."""
        connection = self._connection
        if not self.paused and not self._queue:
            self.write(self._frames(opcode, [payload]))
            connection.count_sent(1, len(payload))
            self._runtime.release(connection, len(payload))
            self._runtime.figures_changed(connection)
        else:
            self._put(_Queued(0, opcode, [payload], len(payload), float("inf")))

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
            self._put(_Queued(0, CLOSE, [payload], 0, float("inf")))
        else:
            self._write_close(payload)

    def _write_close(self, payload: bytes) -> None:
        self.write(self._frames(CLOSE, [payload]))
        self.close_sent = True

    def write(self, data: bytes) -> None:
        """Write whole frames now."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def _frames(self, opcode: int, payloads: list[bytes]) -> bytes:
        masks = os.urandom(4 * len(payloads))
        if self._deflater is not None and opcode != CLOSE:
            compress = self._deflater.compress
            return b"".join(
                encode_frame(opcode, compress(payload), masks[4 * index : 4 * index + 4], compressed=True)
                for index, payload in enumerate(payloads)
            )
        if len(payloads) == 1:
            return encode_frame(opcode, payloads[0], masks)
        return b"".join(
            [encode_frame(opcode, payload, masks[4 * index : 4 * index + 4]) for index, payload in enumerate(payloads)]
        )

    def _put(self, queued: _Queued) -> None:
        self._queue.append(queued)
        self.queued_bytes += queued.size
        if self._timer is None and queued.deadline != float("inf"):
            self._timer = self._runtime.loop.call_at(queued.deadline, self._drop_overdue)

    def _drop_overdue(self) -> None:
        """Answer the sends that the peer did not read in time; they were not written and will not be."""
        self._timer = None
        now = self._runtime.loop.time()
        kept: deque[_Queued] = deque()
        for queued in self._queue:
            if queued.deadline <= now:
                self.queued_bytes -= queued.size
                self._runtime.answer(SendFailed(queued.request, 0, self._connection.state.value, stalled=True))
            else:
                kept.append(queued)
        self._queue = kept
        due = min((queued.deadline for queued in kept), default=float("inf"))
        if due != float("inf"):
            self._timer = self._runtime.loop.call_at(due, self._drop_overdue)

    def resume(self) -> None:
        """The peer has caught up: write what waits, until it falls behind again."""
        connection = self._connection
        self.paused = False
        if self._pong_owed is not None:
            owed, self._pong_owed = self._pong_owed, None
            self.write(encode_frame(PONG, owed, os.urandom(4)))
        while self._queue and not self.paused:
            queued = self._queue.popleft()
            self.queued_bytes -= queued.size
            if queued.opcode == CLOSE:
                self._write_close(queued.payloads[0])
                continue
            self.write(self._frames(queued.opcode, queued.payloads))
            count = len(queued.payloads)
            connection.count_sent(count, queued.size)
            if queued.request:
                sent = Sent(queued.request, count, queued.size, connection.messages_out, connection.bytes_out)
                self._runtime.answer_send(sent, queued.key)
            else:
                self._runtime.release(connection, queued.size)
                self._runtime.figures_changed(connection)

    def drop(self) -> None:
        """Nothing more is sent: answer those who wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            queued = self._queue.popleft()
            if queued.request:
                self._runtime.answer(refused(queued.request, self._connection.state))
            else:
                self._runtime.release(self._connection, queued.size)
        self.queued_bytes = 0


def refused(request: int, state: ConnectionState) -> SendFailed:
    """Return the answer to a send on a connection that is not Connected, or is just ceasing to be."""
    if state is ConnectionState.CONNECTED:
        state = ConnectionState.CLOSING
    return SendFailed(request, 0, state.value)
