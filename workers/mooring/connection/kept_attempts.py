"""How a connection that stays gets its sockets: the delay, its turn, the dial; and when it does not any more. On the I/O loop only.

When it may dial is for the worker's limiter (`Host.redials`). One that waits has no task and no timer of its own, but one alarm
in a heap of the worker; one that dials has a task, which ends with the handshake.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod

from mooring.connection.downtime import Loss, outcome_of
from mooring.connection.host import Host
from mooring.connection.keep import Ended, Keeper
from mooring.connection.kept_law import KeptLaw
from mooring.connection.kept_state import KeptEvent, KeptState
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import now_us
from mooring.kept_events import ReconnectEvent
from mooring.link.messages import ReconnectDone
from mooring.link.record import ConnectionCreated, ConnectionUpdate, Terminated
from mooring.options import ConnectionOptions
from mooring.staying import DEFAULT
from mooring.wire.dial import DialFailed, Dialled
from mooring.wire.frames import ABNORMAL


class KeptAttempts(KeptLaw):
    """A connection that was asked to ``reconnect``, as far as it dials."""

    __slots__ = ("_dial_task", "_fresh", "_keeper", "_letting_go", "_ready_waiters")

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        resumed: ConnectionUpdate | None = None,
    ) -> None:
        super().__init__(host, created, options, handler, resumed)
        # The code of a new process may ask for no policy any more: who is kept stays so, with the defaults.
        policy = options.reconnect or DEFAULT
        self._keeper = Keeper(policy, self._downtime.began_at, was_ready=self.number > 0)
        self._dial_task: asyncio.Task[None] | None = None
        self._fresh = False  # the next attempt is to renew what was refused
        # The present socket is closed for another one, after this delay; it has time until `_next_at`.
        self._letting_go: float | None = None
        self._ready_waiters: tuple[int, ...] = ()

    def dial(self, request: int) -> None:
        """Begin; `request` is answered when it is ready, has ended, or goes on trying."""
        self._open_request = request
        if self.kept_state is KeptState.BLOCKED or self._keeper.policy.first == "retry":
            self._take_ticket()
        else:
            self._host.redials.take_at_once(self, self._url)
            self._attempt()

    def _take_ticket(self) -> None:
        self._move(KeptEvent.TICKET_TAKEN)
        self._host.redials.take(self, self._url)

    @property
    def _url(self) -> str:
        """Where it dials, as far as that is known before an attempt."""
        return self.options.url if self._conversation is None else self._conversation.attempt.url

    def granted(self) -> None:
        """It is our turn to dial (`host.Redialler`)."""
        assert self.kept_state is KeptState.LIMITED, "who leaves it cancels its ticket"
        self._attempt()

    def _attempt(self) -> None:
        self._keeper.began(self._host.loop.time())
        self._downtime.attempts = self._keeper.attempts
        renews = self._conversation is not None and self._conversation.attempt.renews
        self._move(KeptEvent.RENEW_BEGUN if renews else KeptEvent.DIAL_BEGUN)
        self._dial_task = self._host.spawn(self._dial())

    def _prepared(self) -> None:
        """All that the attempt needs was fetched: it goes on."""
        if self.kept_state is KeptState.RENEWING:
            self._move(KeptEvent.DIAL_BEGUN)

    async def _dial(self) -> None:
        # Never ends with an exception but its own cancellation, which `_drop_attempt` causes.
        fresh, self._fresh = self._fresh, False
        try:
            dialled = await self._dial_once(self._keeper.attempts, fresh=fresh)
        except DialFailed as exc:
            self._dial_ended()
            self._attempt_failed(exc)
        else:
            self._dial_ended()
            self._attach(dialled)

    def _dial_ended(self) -> None:
        self._dial_task = None
        self._host.redials.done(self)

    def _attempt_failed(self, failure: DialFailed) -> None:
        ended = Ended(
            err_code=failure.errors[0].err_code,
            status=failure.status,
            retry_after_s=failure.retry_after_s,
        )
        loss = Loss(ended, ABNORMAL, failure.errors[0].message, False, "lost", failure.errors)
        self._host.metrics.redialled(outcome_of(ended.err_code))
        self._lost(loss, timed_out=failure.timed_out, policy=failure.policy)

    def _attach(self, dialled: Dialled) -> None:
        socket = self._take_socket(dialled)
        self._move(KeptEvent.HANDSHAKE_DONE)
        self._begin_opening(socket, dialled)

    @property
    def next_socket(self) -> int:
        """The number that the next socket will have, once it is ready."""
        return self.number + 1

    def opening_failed(self, error: ErrorEntry, *, refused: bool = False, timed_out: bool = False) -> None:
        """The opening has failed: so has the attempt."""
        ended = Ended(err_code=error.err_code, refused_step=refused)
        self._opening_lost(Loss(ended, ABNORMAL, error.message, False, "lost", [error]), timed_out=timed_out)

    def _opening_lost(self, loss: Loss, close_code: int = 1000, *, timed_out: bool = False) -> None:
        socket = self._socket
        self._host.metrics.redialled("opening")
        if self._conversation is not None:
            self._conversation.ended()
        self._lost(loss, timed_out=timed_out)
        if socket is not None:
            socket.drop(close_code, loss.errors[0].message.encode()[:120].decode("utf-8", "ignore"))

    def _closed_in_opening(self, failure: tuple[ErrorEntry, int] | None, end: Terminated) -> None:
        """The socket has ended before it was ready: the attempt has failed, whatever the handshake said."""
        text = (
            f"the server closed in the opening, with code {end.code}"
            if failure is None
            else "the opening was cut short"
        )
        errors = [ErrorEntry(ErrCode.OPENING_FAILED, text), *([] if failure is None else [failure[0]])]
        # A close of its own after it was open once is no error, as a stop code is none.
        no_error = failure is None and self.number > 0
        ended = Ended(
            err_code=None if no_error else ErrCode.OPENING_FAILED,
            close_code=end.code if failure is None else failure[1],
        )
        self._opening_lost(Loss(ended, end.code, end.reason, end.was_clean, "lost", errors))

    def opened(self, resumed: bool | None) -> ReconnectEvent | None:
        """The socket is ready; a return is an event."""
        now = self._host.loop.time()
        self._keeper.ready(now)
        self._downtime.ended(now, resumed)
        self.socket_opened_at_us = now_us()
        metrics = self._host.metrics
        metrics.redialled("ready")
        if self.opened_at_us is None:
            self.opened_at_us = self.socket_opened_at_us
            metrics.opens += 1
        self._move(KeptEvent.READY)
        self._answer_open()
        self._answer_ready()
        if self._greets:
            self._sends.greeting()
        self._host.loop.call_soon(self._sends.go_on)  # its socket has begun by then
        return self._downtime.reconnect_event(self.number, self.protocol) if self.number > 1 else None

    def _answer_ready(self) -> None:
        waiters, self._ready_waiters = self._ready_waiters, ()
        if waiters:
            after = self._host.flush()
            for request in waiters:
                self._host.answer(ReconnectDone(request, after, self.state.value))

    def _drop_attempt(self) -> None:
        """Whatever is under way towards a socket is given up."""
        if self._dial_task is not None:
            self._dial_task.cancel()
            self._dial_task = None
        self._host.redials.cancel(self)

    # Alarms: the delay, and the end of patience.

    def _set_alarm(self) -> None:
        # The one attempt of a first "fail" has connectTimeout, and nothing else.
        at = self._keeper.gives_up_at if self.number or self._keeper.policy.first == "retry" else math.inf
        if self.kept_state is KeptState.WAITING or (
            self.kept_state is KeptState.CONNECTED and self._letting_go is not None
        ):
            at = min(at, self._next_at)
        elif self.kept_state is KeptState.LIMITED and self._open_request_waits:
            at = min(at, self._downtime.began_at + self.options.connect_timeout_s)
        elif self.kept_state in (KeptState.CLOSING, KeptState.CLOSED):
            at = math.inf
        if self.may_queue:
            at = min(at, self._sends.next_due)
        self._host.redials.alarm(self, at)

    @property
    def _open_request_waits(self) -> bool:
        return bool(self._open_request) or self._opened is not None

    def due(self, now: float) -> None:
        """The alarm has come (`host.Redialler`)."""
        if self.may_queue:
            self._sends.due(now)
        match self.kept_state:
            case KeptState.CLOSING | KeptState.CLOSED:
                return
            case KeptState.CONNECTED:
                if self._letting_go is not None and self._socket is not None and now >= self._next_at:
                    self._socket.abort("the server did not answer the close frame in time")
                else:
                    self._set_alarm()
                return
            case KeptState.WAITING if now >= self._next_at:
                self._take_ticket()
            case KeptState.LIMITED if self._open_request_waits:
                self._answer_open()
        if now >= self._keeper.gives_up_at:
            gave_up = self._gave_up()
            self._give_up([gave_up, *self._downtime.errors], gave_up.message)
        else:
            self._set_alarm()

    # How there is none any more.

    @abstractmethod
    def _lost(self, loss: Loss, *, timed_out: bool = False, policy: bool = False) -> None:
        """The ready socket, or the attempt to get one, has ended."""

    def _gave_up(self) -> ErrorEntry:
        return ErrorEntry(
            ErrCode.GAVE_UP, f"no socket was ready for {self._keeper.policy.give_up_after_s:g} s (giveUpAfter)"
        )

    def _give_up(self, errors: list[ErrorEntry], reason: str, **answer: bool) -> None:
        """It ends while no socket is ready."""
        self._drop_attempt()
        self._end(Terminated(ABNORMAL, reason, False), errors, **answer)
        if self._socket is not None:
            self._socket.abort(reason)

    def _end(self, end: Terminated, errors: list[ErrorEntry], **answer: bool) -> None:
        self._move(KeptEvent.ENDED, end, errors)
        self._answer_open(**answer)
        self._answer_ready()
