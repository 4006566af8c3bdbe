"""One connection: the socket round `connection_state.py`. Everything here runs on the I/O loop.

No task lives as long as a connection: the transport calls us when bytes come, timers when a deadline passes, and what
we write goes out whole, frame by frame. So an idle connection costs one timer, and nothing can be cancelled in the
middle of a frame.

How a connection ends, whatever the cause: `_fail` (at most once) records ``onError``; `_end` (exactly once) records
``onTerminate`` and decides code, reason and cleanness.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.connection_state import ConnectionEvent, ConnectionState, step
from mooring.dial import DialFailed, Dialled
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import (
    ErrorEvent,
    Kind,
    OpenEvent,
    TerminateEvent,
    blob_event,
    body_prefix,
    connection_body,
    encode_event,
    now_us,
    object_event,
    rfc3339,
    text_event,
)
from mooring.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    INVALID_DATA,
    PING,
    PONG,
    TEXT,
    TOO_BIG,
    Deflater,
    FrameParser,
    close_payload,
    encode_frame,
)
from mooring.liveness import Dead, Liveness, Ping, Wait
from mooring.messages import (
    ConnectionCreated,
    ConnectionUpdate,
    Opened,
    OpenFailed,
    Send,
    SendFailed,
    Sent,
    Terminated,
    TerminateDone,
)
from mooring.options import ConnectionOptions

if TYPE_CHECKING:
    from mooring.runtime import Runtime

LINGER_S = 1.0  # how long the server may take to close TCP first (RFC 6455 section 7.1.1) before we do
CONFIRM_DEAD_S = 0.02  # bytes that wait in the socket while the loop was late must be seen before a peer is called dead

_ERR_BY_CLOSE_CODE = {INVALID_DATA: ErrCode.INVALID_DATA, TOO_BIG: ErrCode.MESSAGE_TOO_BIG}
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class _Queued(msgspec.Struct, frozen=True):
    """Messages that wait for the peer to read; `request` 0 came from code in the worker."""

    request: int
    data: bytes
    count: int
    payload_bytes: int
    deadline: float


class InvalidData(Exception):
    """A message that cannot be turned into the connection's data type."""


def convert(data_type: str, opcode: int, payload: bytes) -> Any:
    """Return what a callback is handed for a received message (contract, section 2).

    Raises:
        InvalidData: If `payload` cannot be turned into `data_type`.
    """
    try:
        if data_type == "object":
            return _decode_json(payload)
        if data_type == "text":
            return payload.decode("utf-8")
        if opcode == TEXT:
            payload.decode("utf-8")  # RFC 6455 section 8.1: a text message must be UTF-8, whoever wants it
        return payload
    except UnicodeDecodeError:
        raise InvalidData("a message that is not UTF-8") from None
    except msgspec.DecodeError as exc:
        raise InvalidData(f"a message that is not JSON: {exc}") from None
    except RecursionError:
        raise InvalidData("a message that is JSON nested too deeply") from None


def message_event(data_type: str, data: Any, payload: bytes) -> bytes:
    """Return the ``$2`` JSON of a message that `convert` has turned into `data`."""
    if data_type == "text":
        return text_event(data)
    return object_event(payload) if data_type == "object" else blob_event(payload)


class Connection(asyncio.Protocol):
    """One WebSocket client connection of this worker.

    Attributes:
        seq: Number of its last event; written by whoever records: the context with a handler, else the I/O loop.
        recorded_seq: `seq` as far as the outbox has made frames of it.
        ended: Set by the outbox once no event will follow.
        posted, taken: Messages handed to the context, and taken by it; each is written by one thread.
    """

    __slots__ = (
        "__weakref__",
        "_close_sent",
        "_close_timer",
        "_closing_waiters",
        "_created_reported",
        "_deflater",
        "_dial_task",
        "_keep",
        "_live",
        "_live_timer",
        "_open_request",
        "_opened",
        "_outbound",
        "_outbound_bytes",
        "_outbound_timer",
        "_parser",
        "_ping_payload",
        "_ping_sent_at_ns",
        "_pong_owed",
        "_reading_paused",
        "_runtime",
        "_transport",
        "_want",
        "_writing_paused",
        "bytes_in",
        "bytes_out",
        "closed_at_us",
        "created",
        "ended",
        "errors",
        "handler",
        "id",
        "id_bytes",
        "last_message_at_us",
        "message_prefix",
        "messages_in",
        "messages_out",
        "opened_at_us",
        "options",
        "posted",
        "posted_bytes",
        "protocol",
        "recorded_seq",
        "reserved",
        "round_trip_us",
        "seq",
        "state",
        "taken",
        "taken_bytes",
        "terminated",
        "websocket",
    )

    def __init__(
        self, runtime: Runtime, created: ConnectionCreated, options: ConnectionOptions, handler: object | None
    ) -> None:
        self.id = created.id
        self.id_bytes = created.id.to_bytes(8, "little", signed=True)
        self.created = created
        self.options = options
        self.handler = handler
        self.websocket: Any = None  # the face that callbacks are handed; set by the runtime when there is a handler
        self.state = ConnectionState.CONNECTING
        self.seq = 0
        self.recorded_seq = 0
        self.ended = False
        self.posted = self.taken = 0
        self.posted_bytes = self.taken_bytes = 0
        self.reserved = 0  # bytes of messages that code in this worker has handed over; under the runtime's lock
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self.last_message_at_us: int | None = None
        self.round_trip_us: int | None = None
        self.opened_at_us: int | None = None
        self.closed_at_us: int | None = None
        self.protocol: str | None = None
        self.terminated: Terminated | None = None
        self.errors: list[ErrorEntry] = []
        self._runtime = runtime
        self._created_reported = False
        self.message_prefix = body_prefix(Kind.onMessage, created.id, created.worker)
        self._open_request = 0
        self._opened: Future[Connection] | None = None
        self._dial_task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._keep: Any = None
        self._parser: FrameParser | None = None
        self._deflater: Deflater | None = None
        self._live: Liveness | None = None
        self._live_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._close_sent = False
        self._closing_waiters: list[int] = []
        self._outbound: deque[_Queued] = deque()
        self._outbound_bytes = 0
        self._outbound_timer: asyncio.TimerHandle | None = None
        self._writing_paused = False
        self._reading_paused = False
        self._pong_owed: bytes | None = None
        self._ping_payload = b""
        self._ping_sent_at_ns = 0
        self._want = options.data_type

    # ------------------------------------------------------------ the record

    def take_created(self) -> ConnectionCreated | None:
        """Return the unchanging part of the record, the first time."""
        if self._created_reported:
            return None
        self._created_reported = True
        return self.created

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        return ConnectionUpdate(
            self.id,
            self.state.value,
            self.recorded_seq,
            self.messages_in,
            self.messages_out,
            self.bytes_in,
            self.bytes_out,
            self.last_message_at_us,
            self.round_trip_us,
            self.opened_at_us,
            self.closed_at_us,
            self.protocol,
            self.terminated,
            self.errors,
            self.ended,
        )

    def _set_state(self, event: ConnectionEvent) -> None:
        self.state = step(self.state, event)
        self._runtime.touch(self)

    def _record(self, kind: Kind, event: msgspec.Struct) -> None:
        if self.handler is not None:
            self._runtime.context.post(self, kind, event)
            return
        self.record(kind, encode_event(event))

    def record(self, kind: Kind, event: bytes) -> None:
        """Add one event to the outbox; called by the one thread that records for this connection."""
        self.seq += 1
        prefix = self.message_prefix if kind is Kind.onMessage else body_prefix(kind, self.id, self.created.worker)
        self._runtime.outbox.add(
            self,
            bytes((kind,)),
            connection_body(prefix, self.seq, now_us(), event),
            self.seq,
            ended=kind is Kind.onTerminate and self.handler is None,
        )
        self._runtime.wake()

    # ------------------------------------------------------------ opening

    def dial(self, request: int) -> None:
        """Begin the dial; `request` is answered when it has ended."""
        self._open_request = request
        self._runtime.touch(self)
        self._dial_task = self._runtime.spawn(self._dial())

    def when_opened(self, opened: Future[Connection]) -> None:
        """Have `opened` end when the dial has ended, well or not (`errors` says which)."""
        if self.state is ConnectionState.CONNECTING:
            self._opened = opened
        else:
            opened.set_result(self)

    async def _dial(self) -> None:
        # Never ends with an exception but its own cancellation, which `terminate` and `stop` cause.
        try:
            dialled = await self._runtime.dialler.dial(self.options)
        except DialFailed as exc:
            self._dial_task = None
            self._dial_failed(exc.errors, timed_out=exc.timed_out, policy=exc.policy)
            return
        self._dial_task = None
        self._attach(dialled)

    def _dial_failed(
        self, errors: list[ErrorEntry], *, timed_out: bool = False, policy: bool = False, terminated: bool = False
    ) -> None:
        self.errors = errors
        self._runtime.metrics.failed(errors[0].err_code)
        self._record(Kind.onError, ErrorEvent(errors=errors))
        self._end(ABNORMAL, errors[0].message, was_clean=False)
        self._answer_open(timed_out=timed_out, policy=policy, terminated=terminated)

    def _answer_open(self, *, timed_out: bool = False, policy: bool = False, terminated: bool = False) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened.set_result(self)
        request, self._open_request = self._open_request, 0
        if not request:
            return
        after = self._runtime.flush()
        if self.errors:
            self._runtime.answer(
                OpenFailed(request, after, self.errors, timed_out=timed_out, terminated=terminated, policy=policy)
            )
        else:
            self._runtime.answer(Opened(request, after))

    def _attach(self, dialled: Dialled) -> None:
        now = self._runtime.loop.time()
        self._transport = dialled.transport
        self._keep = dialled.keep
        self._parser = FrameParser(self.options.max_message_bytes, dialled.deflate)
        self._deflater = None if dialled.deflate is None else Deflater(dialled.deflate)
        self._live = Liveness(self.options.ping_interval_s, self.options.ping_timeout_s, now)
        self.protocol = dialled.protocol
        self.opened_at_us = now_us()
        self._runtime.metrics.opens += 1
        self._runtime.metrics.dial.observe(max(0, self.opened_at_us - self.created.created_at_us) / 1e6)
        self._set_state(ConnectionEvent.HANDSHAKE_DONE)
        self._record(Kind.onOpen, OpenEvent())
        dialled.transport.set_protocol(self)
        if dialled.transport.is_closing():
            # Lost between the 101 and here: nobody will call connection_lost of ours any more.
            self._answer_open()
            self.connection_lost(None)
            return
        self._arm_liveness(now + self.options.ping_interval_s if self.options.ping_interval_s else float("inf"))
        self._answer_open()
        if dialled.tail:
            self.data_received(dialled.tail)
        if not dialled.transport.is_reading() and not self._reading_paused and not dialled.transport.is_closing():
            dialled.transport.resume_reading()

    # ------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        """Take bytes of the server: any of them is life."""
        live, parser = self._live, self._parser
        assert live is not None and parser is not None, "bytes come only after _attach"
        live.last_byte_at = self._runtime.loop.time()
        if self.state is ConnectionState.CLOSED:
            return  # lingering: what a server says after its close frame is nothing
        items = parser.feed(data)
        if items and self.state is ConnectionState.CONNECTED:
            if self.handler is None:
                self._record_messages(items)
            else:
                self._post_messages(items)
        failure = parser.failure
        if failure is not None and not self.errors:
            self._fail(
                _ERR_BY_CLOSE_CODE.get(failure.code, ErrCode.PROTOCOL_ERROR),
                f"the server sent {failure.detail}",
                failure.code,
            )
        if parser.peer_close is not None:
            self._peer_closed(*parser.peer_close)
        elif self._transport is not None and not self._reading_paused and not self._may_read():
            self._pause_reading()

    def _record_messages(self, items: list[tuple[int, bytes]]) -> None:
        """The hot path: from the frames of one read straight to the outbox, as one run."""
        self.last_message_at_us = time_us = now_us()
        middle = b',"time":"%b","event":{"type":"message","data":' % rfc3339(time_us).encode()
        prefix = self.message_prefix
        seq = self.seq
        size = 0
        bodies: list[bytes] = []
        add = bodies.append
        text_only = self._want == "text"
        failure: InvalidData | None = None
        count = 0
        for opcode, payload in items:
            if opcode > BINARY:
                self._take_control(opcode, payload)
                continue
            count += 1
            size += len(payload)
            try:
                if text_only:
                    seq += 1
                    add(b"%b%d%b%b}}" % (prefix, seq, middle, _encode_json(payload.decode())))
                    continue
                event = message_event(self._want, convert(self._want, opcode, payload), payload)
            except UnicodeDecodeError:
                seq -= 1
                failure = InvalidData("a message that is not UTF-8")
                break
            except InvalidData as exc:
                failure = exc
                break
            seq += 1
            add(connection_body(prefix, seq, time_us, event))
        self.messages_in += count
        self.bytes_in += size
        metrics = self._runtime.metrics
        metrics.messages_in += count
        metrics.bytes_in += size
        self.seq = seq
        if bodies:
            self._runtime.outbox.add(self, b"\x02" * len(bodies), b"\n".join(bodies), seq)
            self._runtime.wake()
        if failure is not None:
            self._fail(ErrCode.INVALID_DATA, f"the server sent {failure}", INVALID_DATA)

    def _post_messages(self, items: list[tuple[int, bytes]]) -> None:
        """With a handler: hand the messages of one read to the context in one go."""
        self.last_message_at_us = now_us()
        posted: list[tuple[Any, bytes]] = []
        size = 0
        failure: InvalidData | None = None
        for opcode, payload in items:
            if opcode > BINARY:
                self._take_control(opcode, payload)
                continue
            self.messages_in += 1
            size += len(payload)
            try:
                posted.append((convert(self._want, opcode, payload), payload))
            except InvalidData as exc:
                failure = exc
                break
        self.bytes_in += size
        metrics = self._runtime.metrics
        metrics.messages_in += len(posted)
        metrics.bytes_in += size
        if posted:
            self._runtime.context.post_messages(self, posted, size)
        self._runtime.touch(self)
        if failure is not None:
            self._fail(ErrCode.INVALID_DATA, f"the server sent {failure}", INVALID_DATA)

    def _take_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            if self._writing_paused:
                self._pong_owed = payload  # RFC 6455 section 5.5.3: the latest ping may be answered alone
            else:
                self._write(encode_frame(PONG, payload, os.urandom(4)))
        elif payload == self._ping_payload and payload:
            # Not loop.time(): uvloop's stands still for a pass of the loop, and counts milliseconds.
            self.round_trip_us = (time.monotonic_ns() - self._ping_sent_at_ns) // 1000
            self._runtime.metrics.round_trip.observe(self.round_trip_us / 1e6)
            self._ping_payload = b""
            self._runtime.figures_changed(self)

    def _may_read(self) -> bool:
        runtime = self._runtime
        if runtime.outbox.full:
            return False
        if self.handler is None:
            return True
        settings = runtime.settings
        return (
            self.posted - self.taken < settings.inbound_messages
            and self.posted_bytes - self.taken_bytes < settings.inbound_bytes
            and not runtime.context.full
        )

    def _pause_reading(self) -> None:
        assert self._transport is not None and self._live is not None, "only an attached connection reads"
        if self._transport.is_closing() or self.state is ConnectionState.CLOSED:
            return
        self._reading_paused = True
        self._runtime.metrics.pauses += 1
        self._transport.pause_reading()
        self._live.paused(self._runtime.loop.time())
        self._runtime.paused.add(self)
        # The other thread may have made room just before we were in `paused`, and will not say so again.
        self.resume_if_room()

    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""
        if self._reading_paused and (self._may_read() or self.state is ConnectionState.CLOSED):
            self._reading_paused = False
            self._runtime.paused.discard(self)
            if self._live is not None:
                self._live.resumed(self._runtime.loop.time())
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # ------------------------------------------------------------ liveness

    def _arm_liveness(self, at: float) -> None:
        if self._live_timer is not None:
            self._live_timer.cancel()
            self._live_timer = None
        if at != float("inf"):
            self._live_timer = self._runtime.loop.call_at(at, self._check_liveness)

    def _check_liveness(self) -> None:
        self._live_timer = None
        if self.state is not ConnectionState.CONNECTED or self._live is None:
            return
        now = self._runtime.loop.time()
        match self._live.check(now):
            case Wait(at):
                self._arm_liveness(at)
            case Ping():
                self._ping_payload = os.urandom(8)
                self._ping_sent_at_ns = time.monotonic_ns()
                self._write(encode_frame(PING, self._ping_payload, os.urandom(4)))
                self._arm_liveness(now + self.options.ping_timeout_s)
            case Dead():
                self._live_timer = self._runtime.loop.call_later(CONFIRM_DEAD_S, self._confirm_dead)

    def _confirm_dead(self) -> None:
        self._live_timer = None
        if self.state is not ConnectionState.CONNECTED or self._live is None:
            return
        match self._live.check(self._runtime.loop.time()):
            case Dead(silent_s):
                message = f"the server sent nothing for {silent_s:.1f} s after a ping"
                self._fail(ErrCode.PING_TIMEOUT, message, None)
                self._end(ABNORMAL, message, was_clean=False)
            case _:
                self._arm_liveness(self._runtime.loop.time())

    # ------------------------------------------------------------ writing

    def send(self, command: Send) -> Sent | SendFailed | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again."""
        if self.state is not ConnectionState.CONNECTED:
            return SendFailed(command.request, 0, self.state.value)
        size = sum(map(len, command.payloads))
        data = self._frames(BINARY if command.binary else TEXT, command.payloads)
        count = len(command.payloads)
        if not self._writing_paused and not self._outbound:
            self._write(data)
            self._count_sent(count, size)
            return Sent(command.request, count, size, self.messages_out, self.bytes_out)
        if self._outbound and self._outbound_bytes + len(data) > self._runtime.settings.outbound_bytes:
            return SendFailed(command.request, 0, self.state.value, stalled=True)
        self._queue(
            _Queued(command.request, data, count, size, self._runtime.loop.time() + self.options.send_timeout_s)
        )
        return None

    def send_from_worker(self, opcode: int, payload: bytes, reserved: int) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand (`Runtime.reserve`)."""
        if self.state is not ConnectionState.CONNECTED:
            self._runtime.release(self, reserved)  # the connection has ended meanwhile: its onTerminate says so
            return
        data = self._frames(opcode, [payload])
        if not self._writing_paused and not self._outbound:
            self._write(data)
            self._count_sent(1, len(payload))
            self._runtime.release(self, reserved)
            self._runtime.figures_changed(self)
        else:
            self._queue(_Queued(0, data, 1, reserved, float("inf")))

    def _frames(self, opcode: int, payloads: list[bytes]) -> bytes:
        masks = os.urandom(4 * len(payloads))
        if self._deflater is not None:
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

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _count_sent(self, count: int, size: int) -> None:
        self.messages_out += count
        self.bytes_out += size
        metrics = self._runtime.metrics
        metrics.messages_out += count
        metrics.bytes_out += size

    def _queue(self, queued: _Queued) -> None:
        self._outbound.append(queued)
        self._outbound_bytes += len(queued.data)
        if self._outbound_timer is None and queued.deadline != float("inf"):
            self._outbound_timer = self._runtime.loop.call_at(queued.deadline, self._drop_overdue)

    def _drop_overdue(self) -> None:
        """Answer the sends that the peer did not read in time; they were not written and will not be."""
        self._outbound_timer = None
        now = self._runtime.loop.time()
        kept: deque[_Queued] = deque()
        for queued in self._outbound:
            if queued.deadline <= now:
                self._outbound_bytes -= len(queued.data)
                self._runtime.answer(SendFailed(queued.request, 0, self.state.value, stalled=True))
            else:
                kept.append(queued)
        self._outbound = kept
        due = min((queued.deadline for queued in kept), default=float("inf"))
        if due != float("inf"):
            self._outbound_timer = self._runtime.loop.call_at(due, self._drop_overdue)

    def pause_writing(self) -> None:
        """The peer reads too slowly: from here on messages queue, within bounds and deadlines."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writing_paused = False
        if self._pong_owed is not None:
            owed, self._pong_owed = self._pong_owed, None
            self._write(encode_frame(PONG, owed, os.urandom(4)))
        while self._outbound and not self._writing_paused:
            queued = self._outbound.popleft()
            self._outbound_bytes -= len(queued.data)
            self._write(queued.data)
            self._count_sent(queued.count, queued.payload_bytes)
            if queued.request:
                self._runtime.answer(
                    Sent(queued.request, queued.count, queued.payload_bytes, self.messages_out, self.bytes_out)
                )
            else:
                self._runtime.release(self, queued.payload_bytes)
                self._runtime.figures_changed(self)

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return self._outbound_bytes

    def _drop_outbound(self) -> None:
        if self._outbound_timer is not None:
            self._outbound_timer.cancel()
            self._outbound_timer = None
        while self._outbound:
            queued = self._outbound.popleft()
            if queued.request:
                self._runtime.answer(SendFailed(queued.request, 0, self.state.value))
            else:
                self._runtime.release(self, queued.payload_bytes)
        self._outbound_bytes = 0

    # ------------------------------------------------------------ ending

    def terminate(self, code: int | None, reason: str | None, request: int = 0) -> None:
        """Close: after what is queued, with `code` (None: 1000); `request` is answered once Closed. Idempotent."""
        if request:
            if self.state is ConnectionState.CLOSED:
                self._runtime.answer(TerminateDone(request, self._runtime.flush()))
                return
            self._closing_waiters.append(request)
        if self.state is ConnectionState.CONNECTING:
            if self._dial_task is not None:
                self._dial_task.cancel()
                self._dial_task = None
            self._dial_failed(
                [ErrorEntry(ErrCode.TERMINATED_WHILE_CONNECTING, reason or "terminated before it was open")],
                terminated=True,
            )
        elif self.state is ConnectionState.CONNECTED:
            self._begin_close(1000 if code is None else code, reason or "")

    def stop(self, code: int, reason: str) -> None:
        """The worker ends: close with 1001, or the dial is given up."""
        if self.state is ConnectionState.CONNECTING:
            if self._dial_task is not None:
                self._dial_task.cancel()
                self._dial_task = None
            self._dial_failed([ErrorEntry(ErrCode.WORKER_STOPPING, reason)], terminated=True)
        elif self.state is ConnectionState.CONNECTED:
            self._begin_close(code, reason)

    def abandon(self, reason: str) -> None:
        """The time for closing is over: decide the end now."""
        if self.state is not ConnectionState.CLOSED:
            if self.state is ConnectionState.CONNECTING:
                self.stop(ABNORMAL, reason)
            else:
                self._end(ABNORMAL, reason, was_clean=False)
        if self._transport is not None:
            self._transport.abort()

    def _begin_close(self, code: int, reason: str) -> None:
        """Our close frame goes out behind what is queued; the peer has ``closeTimeout`` to answer it."""
        self._set_state(ConnectionEvent.CLOSE_BEGUN)
        self._ping_payload = b""
        timeout_s = self.options.close_timeout_s
        self._close_timer = self._runtime.loop.call_later(
            timeout_s, self._close_overdue, f"the server did not answer the close frame within {timeout_s:g} s"
        )
        self._pong_owed = None
        self._closing_frame(close_payload(code, reason))

    def _closing_frame(self, payload: bytes) -> None:
        data = encode_frame(CLOSE, payload, os.urandom(4))
        if self._outbound:
            self._queue(_Queued(0, data, 0, 0, float("inf")))
        else:
            self._write(data)
        self._close_sent = True

    def _close_overdue(self, reason: str) -> None:
        self._close_timer = None
        self._end(ABNORMAL, reason, was_clean=False)

    def _peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame: answer it if it came first (RFC 6455 section 5.5.1)."""
        if self.state is ConnectionState.CONNECTED:
            self._set_state(ConnectionEvent.CLOSE_BEGUN)
            self._drop_outbound()
        if not self._close_sent:
            self._closing_frame(close_payload(code))
        self._end(code, reason, was_clean=code != ABNORMAL)

    def _fail(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Record ``onError``; with a `close_code` say so on the wire and give the peer time to answer."""
        if self.errors or self.state is ConnectionState.CLOSED:
            return
        self.errors = [ErrorEntry(err_code, message)]
        self._runtime.metrics.failed(err_code)
        self._record(Kind.onError, ErrorEvent(errors=self.errors))
        self._drop_outbound()
        if close_code is not None and self.state is ConnectionState.CONNECTED:
            reason = message.encode()[:120].decode("utf-8", "ignore")
            self._begin_close(close_code, reason)

    def _end(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Decide the end, once: nothing but ``onTerminate`` follows."""
        if self.state is ConnectionState.CLOSED:
            return
        self._set_state(ConnectionEvent.ENDED)
        self.closed_at_us = now_us()
        self.terminated = Terminated(code, reason, was_clean)
        for timer in (self._live_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._live_timer = self._close_timer = None
        self._drop_outbound()
        self._runtime.paused.discard(self)
        self._record(Kind.onTerminate, TerminateEvent(code=code, reason=reason, was_clean=was_clean))
        if self._transport is not None and not self._transport.is_closing():
            if was_clean:
                # The server closes TCP first (RFC 6455 section 7.1.1); we only wait so long for it.
                if self._reading_paused:
                    self._reading_paused = False
                    self._transport.resume_reading()
                self._close_timer = self._runtime.loop.call_later(LINGER_S, self._transport.abort)
            else:
                self._transport.abort()
        waiters, self._closing_waiters = self._closing_waiters, []
        if waiters:
            after = self._runtime.flush()
            for request in waiters:
                self._runtime.answer(TerminateDone(request, after))
        if self._transport is None:
            self._release()

    def eof_received(self) -> bool:
        """The server has closed its side: nothing more can come."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        if self.state is not ConnectionState.CLOSED:
            if self.state is ConnectionState.CONNECTED:
                how = "was reset" if isinstance(exc, ConnectionError) else "was closed"
                message = f"the connection {how} without a close frame"
                self._fail(ErrCode.CONNECTION_LOST, message, None)
            else:
                message = "the connection was closed before the server had answered the close frame"
            self._end(ABNORMAL, message, was_clean=False)
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        self._transport = None
        self._release()

    def _release(self) -> None:
        """Give back what a closed connection need not hold."""
        if self._keep is not None:
            self._keep.close()
            self._keep = None
        self._parser = None
        self._deflater = None
        if self.ended:
            self._runtime.forget(self)

    def mark_ended(self) -> None:
        """The outbox has made a frame of the last event."""
        self.ended = True
        if self._transport is None:
            self._runtime.forget(self)
