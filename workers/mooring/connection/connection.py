"""The law of a connection that has one socket: it dials once, and the end of its socket is its own. On the I/O loop only.

How it ends: `failed` or `_give_up_dial` (at most once) record ``onError``; `closed` (exactly once) records ``onTerminate``.
"""

from __future__ import annotations

import asyncio

import msgspec

from mooring.connection.host import Host
from mooring.connection.live import LiveConnection
from mooring.connection.state import ConnectionEvent, ConnectionState, step
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import Kind, OpenEvent, now_us
from mooring.link.record import ConnectionCreated, ConnectionUpdate, KeptUpdate, Terminated
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialled
from mooring.wire.frames import ABNORMAL


class Connection(LiveConnection):
    """One connection that is not kept."""

    __slots__ = ("_dial_task",)

    def __init__(
        self, host: Host, created: ConnectionCreated, options: ConnectionOptions, handler: object | None
    ) -> None:
        super().__init__(host, created, options, handler)
        self._dial_task: asyncio.Task[None] | None = None

    def _set_state(self, event: ConnectionEvent) -> None:
        self.state = step(self.state, event)
        self._host.touch(self)

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        update = super().update()
        if self._conversation is None and self._asking is None:
            return update
        heard_at_us = None
        if self._socket is not None:
            heard_at_us = now_us() - round((self._host.loop.time() - self._socket.last_byte_at) * 1e6)
        step, steps = self.opening
        kept = KeptUpdate(
            socket=0 if self.opened_at_us is None else 1,
            socket_opened_at_us=self.opened_at_us,
            last_heard_at_us=heard_at_us,
            keep_alives=self.keep_alives,
            late_replies=self.late_replies,
            step=step,
            steps=steps,
        )
        return msgspec.structs.replace(update, kept=kept)

    def dial(self, request: int) -> None:
        """Begin the dial; `request` is answered when it has ended."""
        self._open_request = request
        if not self._created_reported:
            self._host.touch(self)
        self._dial_task = self._host.spawn(self._dial())

    async def _dial(self) -> None:
        # Never ends with an exception but its own cancellation, which `_give_up_dial` causes.
        try:
            dialled = await self._dial_once()
        except DialFailed as exc:
            self._dial_task = None
            self._dial_failed(exc.errors, timed_out=exc.timed_out, policy=exc.policy)
        else:
            self._dial_task = None
            self._attach(dialled)

    def _give_up_dial(self, err_code: ErrCode, message: str) -> None:
        if self._dial_task is not None:
            self._dial_task.cancel()
            self._dial_task = None
        timed_out = err_code is ErrCode.CONNECT_TIMEOUT
        self._dial_failed([ErrorEntry(err_code, message)], timed_out=timed_out, terminated=not timed_out)

    def too_late(self, message: str) -> None:
        """Its ``connectTimeout`` is over before it could be dialled."""
        if self.state is ConnectionState.CONNECTING:
            self._give_up_dial(ErrCode.CONNECT_TIMEOUT, message)

    def _dial_failed(
        self, errors: list[ErrorEntry], *, timed_out: bool = False, policy: bool = False, terminated: bool = False
    ) -> None:
        self._record_error(errors)
        self.closed(ABNORMAL, errors[0].message, was_clean=False)
        self._answer_open(timed_out=timed_out, policy=policy, terminated=terminated)
        if self._socket is not None:  # in its opening
            self._socket.abort(errors[0].message)

    def _attach(self, dialled: Dialled) -> None:
        self._begin_opening(self._take_socket(dialled), dialled)

    def opened(self, resumed: bool | None) -> None:
        """The socket is ready."""
        self.opened_at_us = now_us()
        self._host.metrics.opens += 1
        self._set_state(ConnectionEvent.HANDSHAKE_DONE)
        self._record(Kind.onOpen, OpenEvent())
        self._answer_open()

    def opening_failed(self, error: ErrorEntry, *, refused: bool = False, timed_out: bool = False) -> None:
        """The opening has failed: so has the dial."""
        self._opening_ended([error], Terminated(ABNORMAL, error.message, False), timed_out=timed_out)

    def _opening_ended(
        self, errors: list[ErrorEntry], end: Terminated, close_code: int = 1000, *, timed_out: bool = False
    ) -> None:
        self._record_error(errors)
        self.closed(end.code, end.reason, was_clean=end.was_clean)
        self._answer_open(timed_out=timed_out, opening=True)
        if self._socket is not None:
            self._socket.drop(close_code, errors[0].message.encode()[:120].decode("utf-8", "ignore"))

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Record ``onError``; with a `close_code` say so on the wire and give the peer time to answer."""
        if self.errors or self.state is ConnectionState.CLOSED:
            return
        if self.state is ConnectionState.CONNECTING:
            errors = [ErrorEntry(ErrCode.OPENING_FAILED, "the opening was cut short"), ErrorEntry(err_code, message)]
            self._opening_ended(errors, Terminated(ABNORMAL, message, False), close_code or 1000)
            return
        self._record_error([ErrorEntry(err_code, message)])
        if close_code is not None and self.state is ConnectionState.CONNECTED and self._socket is not None:
            self._socket.outbound.drop()
            self._close(close_code, message.encode()[:120].decode("utf-8", "ignore"))

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Decide the end: nothing but ``onTerminate`` follows."""
        if self.state is ConnectionState.CLOSED:
            return  # it was decided in the opening
        self._hears_no_more()
        if self._conversation is not None:
            self._conversation.ended()
        if self.state is ConnectionState.CONNECTING and self._socket is not None and not self.errors:
            error = ErrorEntry(ErrCode.OPENING_FAILED, f"the server closed in the opening, with code {code}")
            self._opening_ended([error], Terminated(code, reason, was_clean))
            return
        self._set_state(ConnectionEvent.ENDED)
        self._record_end(code, reason, was_clean=was_clean)

    def terminate(self, code: int | None, reason: str | None, request: int = 0) -> None:
        """Close: after what is queued, with `code` (None: 1000); `request` is answered once Closed. Idempotent."""
        if not self._waits_for_end(request):
            return
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

    def refuse(self, err_code: ErrCode, message: str) -> None:
        """End it before it dials: what it needs cannot be had."""
        self._give_up_dial(err_code, message)

    def abandon(self, reason: str) -> None:
        """The time for closing is over: decide the end now."""
        if self.state is ConnectionState.CONNECTING:
            self._give_up_dial(ErrCode.WORKER_STOPPING, reason)
        elif self._socket is not None:
            self._socket.abort(reason)

    def _close(self, code: int, reason: str) -> None:
        if self.state is ConnectionState.CONNECTED and self._socket is not None:
            self.state = step(self.state, ConnectionEvent.CLOSE_BEGUN)
            self._host.touch_later(self)  # most peers answer at once
            self._hears_no_more()
            self._socket.close(code, reason)
            self._host.paused.discard(self)
