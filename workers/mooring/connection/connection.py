"""One connection: what belongs to the id. It dials, owns the socket that comes of it, and decides. On the I/O loop only.

What one socket has (its transport, its clocks, the close handshake) is in `wire/socket.py`. It reports to the connection
until its end; then the connection drops it, so that nothing late of a dead socket is taken for a living one's.

How a connection ends: `failed` or `_give_up` (at most once) record ``onError``; `closed` (exactly once) records ``onTerminate``.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future

import msgspec

from mooring.connection import received
from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.connection.sends import Sends, refused
from mooring.connection.state import ConnectionEvent, ConnectionState, step
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import ErrorEvent, Kind, OpenEvent, TerminateEvent, encode_event, now_us
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
from mooring.wire.frames import ABNORMAL, INVALID_DATA
from mooring.wire.socket import Socket

log = logging.getLogger("mooring.worker")


class Connection(RecordedConnection):
    """One WebSocket client connection of this worker. It is the `SocketOwner` of its socket."""

    __slots__ = ("_closing_waiters", "_dial_task", "_host", "_open_request", "_opened", "_sends", "_socket")

    def __init__(
        self, host: Host, created: ConnectionCreated, options: ConnectionOptions, handler: object | None
    ) -> None:
        super().__init__(created, options, handler)
        self._host = host
        self._open_request = 0
        self._opened: Future[Connection] | None = None
        self._dial_task: asyncio.Task[None] | None = None
        self._socket: Socket | None = None
        self._sends = Sends(host, self)
        self._closing_waiters: list[int] = []

    def _set_state(self, event: ConnectionEvent) -> None:
        self.state = step(self.state, event)
        self._host.touch(self)

    def _record(self, kind: Kind, event: msgspec.Struct) -> None:
        if self.handler is not None:
            self._host.mailbox.post(self, kind, event)
        else:
            self.record(self._host.outbox, kind, encode_event(event))
            self._host.wake()

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1: there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    # The dial.

    def dial(self, request: int) -> None:
        """Begin the dial; `request` is answered when it has ended."""
        self._open_request = request
        self._host.touch(self)
        self._dial_task = self._host.spawn(self._dial())

    def when_opened(self, opened: Future[Connection]) -> None:
        """Have `opened` end when the dial has ended, well or not (`errors` says which)."""
        if self.state is ConnectionState.CONNECTING:
            self._opened = opened
        else:
            opened.set_result(self)

    async def _dial(self) -> None:
        # Never ends with an exception but its own cancellation, which `_give_up_dial` causes.
        try:
            began = self._host.loop.time()
            dialled = await self._host.dialler.dial(self.options)
        except DialFailed as exc:
            self._dial_task = None
            self._dial_failed(exc.errors, timed_out=exc.timed_out, policy=exc.policy)
        # The top of a task: whatever a dial may raise (no thread can be started, for one), it must not stay Connecting.
        except Exception as exc:
            log.exception("the dial of connection %d has failed in a way that is not foreseen", self.id)
            self._dial_task = None
            message = f"the dial failed inside the worker, whose log says why: {type(exc).__name__}"
            self._dial_failed([ErrorEntry(ErrCode.UNREACHABLE, message)])
        else:
            self._dial_task = None
            self._host.metrics.dial.observe(self._host.loop.time() - began)
            self._attach(dialled)

    def _give_up_dial(self, err_code: ErrCode, message: str) -> None:
        if self._dial_task is not None:
            self._dial_task.cancel()
            self._dial_task = None
        self._dial_failed([ErrorEntry(err_code, message)], terminated=True)

    def _dial_failed(
        self, errors: list[ErrorEntry], *, timed_out: bool = False, policy: bool = False, terminated: bool = False
    ) -> None:
        self._fail(errors)
        self.closed(ABNORMAL, errors[0].message, was_clean=False)
        self._answer_open(timed_out=timed_out, policy=policy, terminated=terminated)

    def _attach(self, dialled: Dialled) -> None:
        host = self._host
        self._socket = socket = Socket(
            self, self._sends, host.loop, dialled, self.options, host.settings.outbound_bytes
        )
        self.protocol = dialled.protocol
        self.opened_at_us = now_us()
        host.metrics.opens += 1
        self._set_state(ConnectionEvent.HANDSHAKE_DONE)
        self._record(Kind.onOpen, OpenEvent())
        self._answer_open()
        socket.start(dialled.tail)

    def _answer_open(self, *, timed_out: bool = False, policy: bool = False, terminated: bool = False) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened.set_result(self)
        request, self._open_request = self._open_request, 0
        if not request:
            return
        after = self._host.flush()
        if self.errors:
            self._host.answer(
                OpenFailed(request, after, self.errors, timed_out=timed_out, terminated=terminated, policy=policy)
            )
        else:
            self._host.answer(Opened(request, after))

    # What comes: the socket's reports.

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        """Record the messages of one read."""
        wrong = received.take(self._host, self, items)
        if wrong is not None:
            self.failed(ErrCode.INVALID_DATA, f"the server sent {wrong}", INVALID_DATA)

    def may_read(self) -> bool:
        """Say whether every queue that this connection feeds has room."""
        return received.has_room(self._host, self)

    def reading_paused(self) -> None:
        """Wait for room."""
        self._host.metrics.pauses += 1
        self._host.paused.add(self)
        # The other thread may have made room just before we were in `paused`, and will not say so again.
        self.resume_if_room()

    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""
        if self._socket is not None and self.may_read():
            self._host.paused.discard(self)
            self._socket.resume_reading()

    def round_trip(self, round_trip_us: int) -> None:
        """Take the latest round trip."""
        self.round_trip_us = round_trip_us
        self._host.metrics.round_trip.observe(round_trip_us / 1e6)
        self._host.figures_changed(self)

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Record ``onError``; with a `close_code` say so on the wire and give the peer time to answer."""
        if self.errors or self.state is ConnectionState.CLOSED:
            return
        self._fail([ErrorEntry(err_code, message)])
        if close_code is not None and self.state is ConnectionState.CONNECTED and self._socket is not None:
            self._socket.outbound.drop()
            self._close(close_code, message.encode()[:120].decode("utf-8", "ignore"))

    def _fail(self, errors: list[ErrorEntry]) -> None:
        self.errors = errors
        self._host.metrics.failed(errors[0].err_code)
        self._record(Kind.onError, ErrorEvent(errors=errors))

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Decide the end: nothing but ``onTerminate`` follows."""
        self._set_state(ConnectionEvent.ENDED)
        self.closed_at_us = now_us()
        self.terminated = Terminated(code, reason, was_clean)
        self._host.paused.discard(self)
        self._record(Kind.onTerminate, TerminateEvent(code=code, reason=reason, was_clean=was_clean))
        waiters, self._closing_waiters = self._closing_waiters, []
        if waiters:
            after = self._host.flush()
            for request in waiters:
                self._host.answer(TerminateDone(request, after))

    def gone(self, socket: Socket) -> None:
        """Drop the socket; after the end, be forgotten."""
        if socket is self._socket:
            self._socket = None
            if self.ended:
                self._host.forget(self)

    def mark_ended(self) -> None:
        """The outbox has made a frame of the last event."""
        super().mark_ended()
        if self._socket is None:
            self._host.forget(self)

    # What is sent, and the end that is asked for.

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return 0 if self._socket is None else self._socket.outbound.queued_bytes

    def send(self, command: Send) -> Sent | SendFailed | None:
        """Write messages for a request: the answer, or None when it comes once the peer reads again."""
        if self.state is not ConnectionState.CONNECTED or self._socket is None:
            return refused(command.request, self.state)
        return self._sends.send(command, self._socket.outbound)

    def send_from_worker(self, opcode: int, payload: bytes) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand."""
        if self.state is not ConnectionState.CONNECTED or self._socket is None:
            self._host.release(self, len(payload))  # the connection has ended meanwhile: its onTerminate says so
        else:
            self._sends.send_from_worker(opcode, payload, self._socket.outbound)

    def terminate(self, code: int | None, reason: str | None, request: int = 0) -> None:
        """Close: after what is queued, with `code` (None: 1000); `request` is answered once Closed. Idempotent."""
        if request:
            if self.state is ConnectionState.CLOSED:
                self._host.answer(TerminateDone(request, self._host.flush()))
                return
            self._closing_waiters.append(request)
        if self.state is ConnectionState.CONNECTING:
            self._give_up_dial(ErrCode.TERMINATED_WHILE_CONNECTING, reason or "terminated before it was open")
        else:
            self._close(1000 if code is None else code, reason or "")

    def stop(self, code: int, reason: str) -> None:
        """The worker ends: close with `code`, or the dial is given up."""
        if self.state is ConnectionState.CONNECTING:
            self._give_up_dial(ErrCode.WORKER_STOPPING, reason)
        else:
            self._close(code, reason)

    def abandon(self, reason: str) -> None:
        """The time for closing is over: decide the end now."""
        if self.state is ConnectionState.CONNECTING:
            self._give_up_dial(ErrCode.WORKER_STOPPING, reason)
        elif self._socket is not None:
            self._socket.abort(reason)

    def _close(self, code: int, reason: str) -> None:
        if self.state is ConnectionState.CONNECTED and self._socket is not None:
            self._set_state(ConnectionEvent.CLOSE_BEGUN)
            self._socket.close(code, reason)
            self._host.paused.discard(self)
