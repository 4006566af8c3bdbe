"""What both laws of a connection share: what is read and sent, and who waits for the open or the close. On the I/O loop only.

`connection.py` is the law of one socket, `kept.py` that of many; each decides, and records. A socket (`wire/socket.py`) reports to
its connection until its end; then the connection drops it, so that nothing late of a dead socket is taken for a living one's.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from concurrent.futures import Future
from functools import partial
from typing import Literal

from mooring.connection.asking_connection import AskingConnection
from mooring.connection.host import Host
from mooring.connection.state import ConnectionState
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import ErrorEvent, Kind, TerminateEvent, now_us
from mooring.link.held import HeldConnection
from mooring.link.messages import Opened, OpenFailed, TerminateDone
from mooring.link.messages_sent import Send, SendFailed, SendQueued, Sent
from mooring.link.packed import pack, unpack
from mooring.link.record import ConnectionCreated, Terminated
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.wire.dial import Dialled
from mooring.wire.outbound import Outbound
from mooring.wire.socket import Socket, SocketState

STOPPED_CODE = 1001  # "going away" (RFC 6455 section 7.4.1)

Left = Literal["", "drained", "serviceStopped", "cutOff"]
"""Who goes on when a worker ends: nobody; the next process of its name, with all that is kept; the next service, with what persists."""

log = logging.getLogger("mooring.worker")


class LiveConnection(AskingConnection):
    """One WebSocket client connection of this worker. It is the `SocketOwner` of its socket."""

    __slots__ = ("_by_code", "_closing_waiters", "_open_request", "_opened", "_spec")

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        last_socket: int = 0,
    ) -> None:
        super().__init__(host, created, options, handler, last_socket)
        self._open_request = 0
        self._opened: Future[LiveConnection] | None = None
        self._closing_waiters: list[int] = []
        self._spec: bytes | None = None
        self._by_code: bytes | None = None  # what code in this worker has asked for since, where no request has

    @property
    def spec(self) -> ConnectionRequest | None:
        """What a request has asked for, as far as somebody needs it: to open it again, or to compare."""
        return None if self._spec is None else unpack(self._spec, self.options.url)

    @spec.setter
    def spec(self, spec: ConnectionRequest | None) -> None:
        self._spec = None if spec is None else pack(spec, self.options.url)

    @property
    def asked(self) -> ConnectionRequest:
        """What a request has asked for, or code beside its handler."""
        if self._by_code is not None:
            return unpack(self._by_code, self.options.url)
        return self.spec or ConnectionRequest(url=self.options.url)

    @asked.setter
    def asked(self, asked: ConnectionRequest) -> None:
        if self._spec is None:
            self._by_code = pack(asked, self.options.url)
        else:
            self.spec = asked

    def _record_error(self, errors: list[ErrorEntry]) -> None:
        self.errors = errors
        self._host.metrics.failed(errors[0].err_code)
        self._record(Kind.onError, ErrorEvent(errors=errors))

    def _record_end(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Record ``onTerminate``, and answer those who wait for it."""
        self.closed_at_us = now_us()
        self.terminated = Terminated(code, reason, was_clean)
        self._host.paused.discard(self)
        self._record(Kind.onTerminate, TerminateEvent(code=code, reason=reason, was_clean=was_clean))
        waiters, self._closing_waiters = self._closing_waiters, []
        for request in waiters:
            self._host.answer_behind(partial(TerminateDone, request))

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1: there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    def probe(self, deadline_s: float) -> None:
        """The machine has slept: ask at once whether the server is there."""
        if self._socket is not None:
            self._socket.probe(deadline_s)

    def held(self) -> HeldConnection:
        """Return what `Hello` says of it."""
        return HeldConnection(self.created, self.update(), self.spec)

    def change(self, options: ConnectionOptions, created: ConnectionCreated) -> None:
        """Run with `options`: each attempt from now on, and what has its time now."""
        super().change(options, created)
        self._change_conversation()
        self._host.touch(self)

    # The open, and who waits for it.

    @abstractmethod
    def dial(self, request: int) -> None:
        """Begin the dial; `request` is answered when it has ended."""

    def when_opened(self, opened: Future[LiveConnection]) -> None:
        """Have `opened` end when the create is to be answered: `opened_at_us` and `state` say how it went."""
        if self.state is ConnectionState.CONNECTING:
            self._opened = opened
        else:
            opened.set_result(self)

    def _take_socket(self, dialled: Dialled) -> Socket:
        host = self._host
        self._socket = socket = Socket(
            self, self._sends, host.loop, dialled, self.options, host.settings.outbound_bytes, host.ticks
        )
        self.protocol = dialled.protocol
        return socket

    def _answer_open(
        self, *, timed_out: bool = False, policy: bool = False, terminated: bool = False, opening: bool = False
    ) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened.set_result(self)
        request, self._open_request = self._open_request, 0
        if not request:
            return
        if self.errors:
            told = partial(
                OpenFailed,
                request,
                errors=self.errors,
                timed_out=timed_out,
                terminated=terminated,
                policy=policy,
                opening=opening,
            )
            self._host.answer_behind(told)
        else:
            self._host.answer_behind(partial(Opened, request))

    # What comes: the socket's reports.

    def reading_paused(self) -> None:
        """Wait for room."""
        self._host.metrics.pauses += 1
        if self._watch is not None:
            self._watch.paused()
        self._host.paused.add(self)
        # The other thread may have made room just before we were in `paused`, and will not say so again.
        self.resume_if_room()

    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""
        if self._socket is not None and self.may_read():
            self._host.paused.discard(self)
            self._socket.resume_reading()
            if self._watch is not None:
                self._watch.resumed()

    def round_trip(self, round_trip_us: int) -> None:
        """Take the latest round trip."""
        self.round_trip_us = round_trip_us
        self._host.metrics.round_trip.observe(round_trip_us / 1e6)
        self._host.figures_changed(self)

    @abstractmethod
    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Take the end of the socket."""

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
    def open_outbound(self) -> Outbound | None:
        """Where messages go just now."""
        socket = self._socket
        if self.state is ConnectionState.CONNECTED and socket is not None and socket.state is SocketState.OPEN:
            return socket.outbound
        return None

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return 0 if self._socket is None else self._socket.outbound.queued_bytes

    def send(self, command: Send) -> Sent | SendFailed | SendQueued | None:
        """Write messages for a request: the answer, or None when it comes later."""
        return self._sends.send(command, self.open_outbound)

    def send_from_worker(self, opcode: int, payload: bytes, ttl_s: float | None = None) -> None:
        """Write one message of code in this worker; it has reserved its room beforehand."""
        self._sends.send_from_worker(opcode, payload, self.open_outbound, ttl_s)

    @abstractmethod
    def terminate(self, code: int | None, reason: str | None, request: int = 0) -> None:
        """Close: after what is queued, with `code` (None: 1000); `request` is answered once Closed. Idempotent."""

    def _waits_for_end(self, request: int) -> bool:
        """Have `request` answered at the end; False if it is Closed already, and answered."""
        if not request:
            return self.state is not ConnectionState.CLOSED
        if self.state is ConnectionState.CLOSED:
            self._host.answer(TerminateDone(request, self._host.flush()))
            return False
        self._closing_waiters.append(request)
        return True

    @abstractmethod
    def too_late(self, message: str) -> None:
        """Its ``connectTimeout`` is over before it could be dialled."""

    @abstractmethod
    def stop(self, code: int, reason: str) -> None:
        """The worker ends: close with `code`, or the dial is given up."""

    def let_go(self, reason: str, *, left: Left) -> None:
        """The worker ends; `left`: and who goes on with what."""
        if left == "drained" or (left in ("serviceStopped", "cutOff") and self.created.persists):
            self.drain(STOPPED_CODE, reason, left)
        else:
            self.stop(STOPPED_CODE, reason)

    def drain(self, code: int, reason: str, left: Left = "drained") -> None:
        """The worker ends, and another process follows: let go what that one opens again, and `stop` the rest."""
        self.stop(code, reason)

    @property
    def at_rest(self) -> bool:
        """Nothing more will happen here."""
        return self.state is ConnectionState.CLOSED

    @abstractmethod
    def refuse(self, err_code: ErrCode, message: str) -> None:
        """End it before it dials: what it needs cannot be had."""

    @abstractmethod
    def abandon(self, reason: str) -> None:
        """The time for closing is over: decide the end now."""
