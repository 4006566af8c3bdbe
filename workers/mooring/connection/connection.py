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
from mooring.link.record import ConnectionCreated, ConnectionUpdate, KeptUpdate
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
        if self._asking is None:
            return update
        kept = KeptUpdate(
            socket=0 if self.opened_at_us is None else 1,
            socket_opened_at_us=self.opened_at_us,
            late_replies=self.late_replies,
        )
        return msgspec.structs.replace(update, kept=kept)

    def dial(self, request: int) -> None:
        """Begin the dial; `request` is answered when it has ended."""
        self._open_request = request
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

    def _attach(self, dialled: Dialled) -> None:
        host = self._host
        socket = self._take_socket(dialled)
        self.opened_at_us = now_us()
        host.metrics.opens += 1
        self._set_state(ConnectionEvent.HANDSHAKE_DONE)
        self._record(Kind.onOpen, OpenEvent())
        self._answer_open()
        socket.start(dialled.tail)

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Record ``onError``; with a `close_code` say so on the wire and give the peer time to answer."""
        if self.errors or self.state is ConnectionState.CLOSED:
            return
        self._record_error([ErrorEntry(err_code, message)])
        if close_code is not None and self.state is ConnectionState.CONNECTED and self._socket is not None:
            self._socket.outbound.drop()
            self._close(close_code, message.encode()[:120].decode("utf-8", "ignore"))

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Decide the end: nothing but ``onTerminate`` follows."""
        self._replies_lost()
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
            self._set_state(ConnectionEvent.CLOSE_BEGUN)
            self._replies_lost()
            self._socket.close(code, reason)
            self._host.paused.discard(self)
