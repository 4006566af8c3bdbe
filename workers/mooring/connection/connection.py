"""One connection: the socket round `connection_state.py`. Everything here runs on the I/O loop.

No task lives as long as a connection: the transport calls us when bytes come, timers when a deadline passes, and what
we write goes out whole, frame by frame. So an idle connection costs one timer, and nothing can be cancelled in the
middle of a frame.

How a connection ends: `_fail` (at most once) records ``onError``; `_end` (exactly once) records ``onTerminate``.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.connection.conversion import convert_all, render
from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionEvent, ConnectionState, step
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import (
    ErrorEvent,
    Kind,
    OpenEvent,
    TerminateEvent,
    body_prefix,
    connection_body,
    encode_event,
    now_us,
)
from mooring.link.messages import (
    ConnectionCreated,
    Opened,
    OpenFailed,
    Send,
    SendFailed,
    Sent,
    Terminated,
    TerminateDone,
)
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialled
from mooring.wire.frames import (
    ABNORMAL,
    INVALID_DATA,
    PING,
    TOO_BIG,
    Deflater,
    FrameParser,
    close_payload,
)
from mooring.wire.outbound import Outbound, refused
from mooring.wire.pulse import Pulse

if TYPE_CHECKING:
    from mooring.process.runtime import Runtime

LINGER_S = 1.0  # how long the server may take to close TCP first (RFC 6455 section 7.1.1) before we do

_ERR_BY_CLOSE_CODE = {INVALID_DATA: ErrCode.INVALID_DATA, TOO_BIG: ErrCode.MESSAGE_TOO_BIG}


class Connection(RecordedConnection, asyncio.Protocol):
    """One WebSocket client connection of this worker.

    Attributes:
        posted, taken: Messages handed to the context, and taken by it; each is written by one thread.
    """

    __slots__ = (
        "_close_timer", "_closing_waiters", "_dial_task", "_keep", "_open_request", "_opened", "_outbound", "_parser",
        "_pulse", "_reading_paused", "_runtime", "_transport", "_want", "handler", "options", "posted", "posted_bytes",
        "reserved", "taken", "taken_bytes", "websocket",
    )  # fmt: skip

    def __init__(
        self, runtime: Runtime, created: ConnectionCreated, options: ConnectionOptions, handler: object | None
    ) -> None:
        super().__init__(created)
        self.options = options
        self.handler = handler
        self.websocket: Any = None  # the face that callbacks are handed; set by the runtime when there is a handler
        self.posted = self.taken = 0
        self.posted_bytes = self.taken_bytes = 0
        self.reserved = 0  # bytes of messages that code in this worker has handed over; under the runtime's lock
        self._runtime = runtime
        self._open_request = 0
        self._opened: Future[Connection] | None = None
        self._dial_task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._keep: Any = None
        self._parser: FrameParser | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._outbound: Outbound | None = None
        self._pulse: Pulse | None = None
        self._closing_waiters: list[int] = []
        self._reading_paused = False
        self._want = options.data_type

    # ------------------------------------------------------------ the record

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
        self._transport = dialled.transport
        self._keep = dialled.keep
        self._parser = FrameParser(self.options.max_message_bytes, dialled.deflate)
        deflater = None if dialled.deflate is None else Deflater(dialled.deflate)
        self._outbound = outbound = Outbound(self._runtime, self, dialled.transport, deflater)
        options = self.options
        self._pulse = Pulse(
            self._runtime.loop, options.ping_interval_s, options.ping_timeout_s, outbound.write, self._on_dead
        )
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
        self._answer_open()
        if dialled.tail:
            self.data_received(dialled.tail)
        if not dialled.transport.is_reading() and not self._reading_paused and not dialled.transport.is_closing():
            dialled.transport.resume_reading()

    # ------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        """Take bytes of the server: any of them is life."""
        pulse, parser = self._pulse, self._parser
        assert pulse is not None and parser is not None, "bytes come only after _attach"
        pulse.live.last_byte_at = self._runtime.loop.time()
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
        time_us = now_us()
        received = render(items, self._want, self.message_prefix, self.seq, time_us, self._take_control)
        self._count_received(received.count, received.size, time_us)
        bodies = received.bodies
        if bodies:
            self.seq += len(bodies)
            self._runtime.outbox.add(self, b"\x02" * len(bodies), b"\n".join(bodies), self.seq)
            self._runtime.wake()
        self._check_received(received.failure)

    def _post_messages(self, items: list[tuple[int, bytes]]) -> None:
        """With a handler: hand the messages of one read to the context in one go."""
        received = convert_all(items, self._want, self._take_control)
        self._count_received(received.count, received.size, now_us())
        if received.messages:
            size = received.size if received.failure is None else sum(len(payload) for _, payload in received.messages)
            self._runtime.context.post_messages(self, received.messages, size)
        self._runtime.touch(self)
        self._check_received(received.failure)

    def _count_received(self, count: int, size: int, time_us: int) -> None:
        if count:  # what came may have been a pong alone
            self.last_message_at_us = time_us
        self.messages_in += count
        self.bytes_in += size
        metrics = self._runtime.metrics
        metrics.messages_in += count
        metrics.bytes_in += size

    def _check_received(self, failure: str | None) -> None:
        if failure is not None:
            self._fail(ErrCode.INVALID_DATA, f"the server sent {failure}", INVALID_DATA)

    def _take_control(self, opcode: int, payload: bytes) -> None:
        assert self._outbound is not None and self._pulse is not None, "frames come only after _attach"
        if opcode == PING:
            self._outbound.pong(payload)
        else:
            round_trip_us = self._pulse.pong(payload)
            if round_trip_us is not None:
                self.round_trip_us = round_trip_us
                self._runtime.metrics.round_trip.observe(round_trip_us / 1e6)
                self._runtime.figures_changed(self)

    def _may_read(self) -> bool:
        if self.state is ConnectionState.CLOSING:
            return True  # nothing is recorded any more, and the peer's close frame is behind what it has sent
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
        assert self._transport is not None and self._pulse is not None, "only an attached connection reads"
        if self._transport.is_closing() or self.state is ConnectionState.CLOSED:
            return
        self._reading_paused = True
        self._runtime.metrics.pauses += 1
        self._transport.pause_reading()
        self._pulse.live.paused(self._runtime.loop.time())
        self._runtime.paused.add(self)
        # The other thread may have made room just before we were in `paused`, and will not say so again.
        self.resume_if_room()

    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""
        if self._reading_paused and (self._may_read() or self.state is ConnectionState.CLOSED):
            self._reading_paused = False
            self._runtime.paused.discard(self)
            if self._pulse is not None:
                self._pulse.live.resumed(self._runtime.loop.time())
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _on_dead(self, silent_s: float) -> None:
        if self.state is ConnectionState.CONNECTED:
            message = f"the server sent nothing for {silent_s:.1f} s after a ping"
            self._fail(ErrCode.PING_TIMEOUT, message, None)
            self._end(ABNORMAL, message, was_clean=False)

    # ------------------------------------------------------------ writing

    def send(self, command: Send) -> Sent | SendFailed | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again."""
        if self.state is not ConnectionState.CONNECTED or self._outbound is None:
            return refused(command.request, self.state)
        return self._outbound.send(command)

    def send_from_worker(self, opcode: int, payload: bytes) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand (`Runtime.reserve`)."""
        if self.state is not ConnectionState.CONNECTED or self._outbound is None:
            self._runtime.release(self, len(payload))  # the connection has ended meanwhile: its onTerminate says so
        else:
            self._outbound.send_from_worker(opcode, payload)

    def count_sent(self, count: int, size: int) -> None:
        """Count messages that were written."""
        self.messages_out += count
        self.bytes_out += size
        metrics = self._runtime.metrics
        metrics.messages_out += count
        metrics.bytes_out += size

    def pause_writing(self) -> None:
        """The peer reads too slowly: from here on messages queue, within bounds and deadlines."""
        if self._outbound is not None:
            self._outbound.paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self._outbound is not None:
            self._outbound.resume()

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return 0 if self._outbound is None else self._outbound.queued_bytes

    def _drop_outbound(self) -> None:
        if self._outbound is not None:
            self._outbound.drop()

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
        assert self._outbound is not None and self._pulse is not None, "only a Connected one is closed"
        self._set_state(ConnectionEvent.CLOSE_BEGUN)
        self._pulse.stop()
        timeout_s = self.options.close_timeout_s
        self._close_timer = self._runtime.loop.call_later(
            timeout_s, self._close_overdue, f"the server did not answer the close frame within {timeout_s:g} s"
        )
        self._outbound.close(close_payload(code, reason))
        self.resume_if_room()

    def _close_overdue(self, reason: str) -> None:
        self._close_timer = None
        self._end(ABNORMAL, reason, was_clean=False)

    def _peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame: answer it if it came first (RFC 6455 section 5.5.1)."""
        if self.state is ConnectionState.CONNECTED:
            self._set_state(ConnectionEvent.CLOSE_BEGUN)
        if self._outbound is not None and not self._outbound.close_sent:
            self._drop_outbound()  # our own close frame may be waiting there, behind what the peer did not read
            self._outbound.close(close_payload(code))
        self._end(code, reason, was_clean=code != ABNORMAL)

    def _fail(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Record ``onError``; with a `close_code` say so on the wire and give the peer time to answer."""
        if self.errors or self.state is ConnectionState.CLOSED:
            return
        self.errors = [ErrorEntry(err_code, message)]
        self._runtime.metrics.failed(err_code)
        self._record(Kind.onError, ErrorEvent(errors=self.errors))
        if close_code is not None and self.state is ConnectionState.CONNECTED:
            self._drop_outbound()
            reason = message.encode()[:120].decode("utf-8", "ignore")
            self._begin_close(close_code, reason)

    def _end(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Decide the end, once: nothing but ``onTerminate`` follows."""
        if self.state is ConnectionState.CLOSED:
            return
        self._set_state(ConnectionEvent.ENDED)
        self.closed_at_us = now_us()
        self.terminated = Terminated(code, reason, was_clean)
        if self._pulse is not None:
            self._pulse.stop()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
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
        self._outbound = None
        if self.ended:
            self._runtime.forget(self)

    def mark_ended(self) -> None:
        """The outbox has made a frame of the last event."""
        self.ended = True
        if self._transport is None:
            self._runtime.forget(self)
