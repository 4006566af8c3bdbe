"""How a socket of a connection that stays ends, and what is asked of it: one id, one socket after the other. On the I/O loop only.

Each step is recorded by the law (`kept_law`); how the next socket comes is in `kept_attempts`, whether there is one is for the
policy (`keep`). A dead socket says nothing but `gone`, an attempt that was given up is cancelled: so what comes is of the present
one.
"""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from mooring.connection.downtime import Loss
from mooring.connection.host import Host
from mooring.connection.keep import Ended, Fate, Redial, Stop, fate
from mooring.connection.kept_attempts import KeptAttempts
from mooring.connection.kept_state import KeptEvent, KeptState
from mooring.connection.live import Left
from mooring.connection.secret_headers import secrets_of
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import now_us
from mooring.kept_events import Cause
from mooring.link.messages import Reconnect, ReconnectDone
from mooring.link.record import ConnectionCreated, ConnectionUpdate, Terminated
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.wire.frames import ABNORMAL
from mooring.wire.socket import SocketState

LET_GO_S = 1.0
"""A socket that is closed for another one has so long to answer: the next one waits for it, so that there are never two."""


class KeptConnection(KeptAttempts):
    """One connection that was asked to ``reconnect``.

    Attributes:
        spec: What a request has asked for; None: code in this worker has made it, so no other process can.
    """

    __slots__ = ("_failure", "_left", "_peer_asked")

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        resumed: ConnectionUpdate | None = None,
        spec: ConnectionRequest | None = None,
    ) -> None:
        super().__init__(host, created, options, handler, resumed)
        self.spec = spec
        self._left: Left = ""  # its worker ends, and another process will open it again
        self._peer_asked: bool | None = None  # the peer has asked for another socket, at once or not
        # Of the present socket: what is wrong with it, and the code with which it is closed for that.
        self._failure: tuple[ErrorEntry, int] | None = None

    def change(self, options: ConnectionOptions, created: ConnectionCreated) -> None:
        """As `LiveConnection.change`; the delay that runs goes on, the next one is by the new policy."""
        super().change(options, created)
        if options.reconnect is not None:
            self._keeper.policy = options.reconnect
            self._set_alarm()

    # How a socket ends.

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Take that something is wrong; with a `close_code` say so on the wire."""
        if self._failure is not None or self.kept_state is KeptState.CLOSED:
            return
        self._failure = (ErrorEntry(err_code, message), ABNORMAL if close_code is None else close_code)
        socket = self._socket
        if close_code is None or socket is None or socket.state is not SocketState.OPEN:
            return
        if self.kept_state is KeptState.OPENING:
            socket.drop(close_code, message.encode()[:120].decode("utf-8", "ignore"))
            return
        socket.outbound.drop()
        reason = message.encode()[:120].decode("utf-8", "ignore")
        if fate(self._keeper.policy, Ended(err_code=err_code, close_code=close_code)) is Fate.STOP:
            self._close(close_code, reason)
        else:
            self._let_go(0.0, close_code, reason)

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """Take the end of the socket: the policy says what follows."""
        self._hears_no_more()
        self._sends.lost()
        if self._socket is not None:
            self._socket.outbound.drop()  # before it is told how much waits
        if self._conversation is not None:
            self._conversation.ended()
        failure, self._failure = self._failure, None
        if self.kept_state is KeptState.OPENING:
            self._closed_in_opening(failure, Terminated(code, reason, was_clean))
            return
        errors = [] if failure is None else [failure[0]]
        if self.kept_state is KeptState.CLOSING:
            self._end(Terminated(code, reason, was_clean), errors)
        elif self.kept_state is KeptState.CONNECTED:
            ended = (
                Ended(close_code=code)
                if failure is None
                else Ended(err_code=failure[0].err_code, close_code=failure[1])
            )
            cause: Cause | None = None
            if self._letting_go is not None and failure is None:
                cause = "order" if self._peer_asked is None else "asked"
            self._lost(Loss(ended, code, reason, was_clean, cause, errors))

    def _lost(self, loss: Loss, *, timed_out: bool = False, policy: bool = False) -> None:
        """The ready socket, or the attempt to get one, has ended."""
        host, keeper = self._host, self._keeper
        now = host.loop.time()
        letting_go, self._letting_go = self._letting_go, None
        asked, self._peer_asked = self._peer_asked, None
        conversation = self._conversation
        proven = conversation is None or conversation.proven
        opening = self.kept_state is KeptState.OPENING
        if self._left:
            loss = self._left_behind(loss, self._left)
        if self.kept_state is KeptState.CONNECTED:
            self._downtime.begin(
                now, now_us(), loss, self.last_message_at_us, self.socket_opened_at_us, self._heard_at_us()
            )
            host.paused.discard(self)
        else:
            self._downtime.failed(loss)
        if self._left:
            self._leave()
            return
        answer: Redial | Stop
        if loss.cause == "order":
            answer = keeper.ordered(now, letting_go or 0.0, proven=proven)
        elif loss.cause == "asked":
            answer = keeper.asked(now, random.random(), at_once=bool(asked), proven=proven)
        else:
            answer = keeper.ended(loss.ended, now, random.random(), renewable=self._renewable, proven=proven)
        if isinstance(answer, Stop):
            errors = loss.errors if answer.err_code == loss.ended.err_code else [self._gave_up(), *loss.errors]
            self._end(Terminated(loss.code, loss.reason, loss.was_clean), errors if answer.err_code is not None else [],
                      timed_out=timed_out, policy=policy, opening=opening)  # fmt: skip
            return
        self._downtime.attempts = keeper.attempts
        self._next_at, self._fresh = answer.at, answer.renew
        if loss.cause in ("order", "asked") and answer.at <= now:
            self._move(KeptEvent.REDIAL)
            host.redials.take(self, self._url)
        else:
            self._move(KeptEvent.RETRY)
        self._answer_open()

    @property
    def _renewable(self) -> bool:
        """After a refusal the next attempt may say something else: a secret is read again."""
        if self._conversation is not None:
            return self._conversation.attempt.renewable
        return bool(secrets_of(self.options.headers))

    def _let_go(self, delay_s: float, code: int, reason: str) -> None:
        """Close the ready socket for another one, `delay_s` later."""
        assert self._socket is not None, "it is ready"
        self._letting_go = delay_s
        self._next_at = self._host.loop.time() + min(LET_GO_S, self.options.close_timeout_s)
        self._hears_no_more()
        self._sends.let_go()
        self._socket.close(code, reason)
        self._host.paused.discard(self)
        self._set_alarm()

    def peer_asks(self, at_once: bool) -> bool:
        """The peer asks for a new socket: the one that there is, is closed for it."""
        if self.kept_state is not KeptState.CONNECTED or self._letting_go is not None:
            return False
        self._peer_asked = at_once
        self._let_go(0.0, 1000, "the server asked for a new connection")
        return True

    # What is asked for.

    def reconnect(self, order: Reconnect) -> None:
        """Get a new socket; whoever asks while one is on its way gets that one."""
        if self.kept_state not in (KeptState.CLOSING, KeptState.CLOSED):
            if self.kept_state is KeptState.CONNECTED:
                if self._letting_go is None:
                    self._let_go(order.delay_s, order.code, order.reason)
            elif self.kept_state is KeptState.WAITING:
                if order.delay_s:
                    self._next_at = self._host.loop.time() + order.delay_s
                    self._host.touch(self)
                    self._set_alarm()
                else:
                    self._take_ticket()
            if order.wait and order.request:
                self._ready_waiters += (order.request,)
                return
        if order.request:
            self._host.answer(ReconnectDone(order.request, self._host.flush(), self.state.value))

    def terminate(self, code: int | None, reason: str | None, request: int = 0) -> None:
        """Close: after what is queued, with `code` (None: 1000); `request` is answered once Closed. Idempotent."""
        if not self._waits_for_end(request):
            return
        self._ordered_end = self._ordered_end or "asked"
        if self.kept_state is KeptState.CONNECTED:
            self._close(1000 if code is None else code, reason or "")
        elif self.kept_state is not KeptState.CLOSING:
            self._cut_short(ErrCode.TERMINATED_WHILE_CONNECTING, reason or "terminated before it was open", reason)

    def too_late(self, message: str) -> None:
        """Its ``connectTimeout`` is over before it could be dialled."""
        self._give_up([ErrorEntry(ErrCode.CONNECT_TIMEOUT, message)], message, timed_out=True)

    def stop(self, code: int, reason: str) -> None:
        """The worker ends: close with `code`, or what is under way is given up."""
        self._ordered_end = self._ordered_end or "worker"
        if self.kept_state is KeptState.CONNECTED:
            self._close(code, reason)
        elif self.kept_state not in (KeptState.CLOSING, KeptState.CLOSED):
            self._cut_short(ErrCode.WORKER_STOPPING, reason, reason)

    def drain(self, code: int, reason: str, left: Left = "drained") -> None:
        """The worker ends, and another process follows: let go what that one opens again, and `stop` the rest."""
        again = self.number or self._keeper.policy.first == "retry"
        if self.spec is None or not again or self.kept_state in (KeptState.CLOSING, KeptState.CLOSED):
            self.stop(code, reason)
            return
        self._left = left
        if self.kept_state is not KeptState.CONNECTED:
            self._drop_attempt()
            self._leave()
        elif self._letting_go is None:
            self._let_go(0.0, code, reason)

    def _left_behind(self, loss: Loss, left: Literal["drained", "serviceStopped", "cutOff"]) -> Loss:
        error = ErrorEntry(ErrCode.WORKER_DRAINED, "the worker was drained")
        if left == "serviceStopped":
            error = ErrorEntry(ErrCode.WORKER_STOPPING, "the service was stopped")
        elif left == "cutOff":
            error = ErrorEntry(ErrCode.WORKER_STOPPING, "this node may have been taken for dead")
        return msgspec.structs.replace(loss, cause=left, errors=[error, *loss.errors])

    def _leave(self) -> None:
        """Leave it to the process that follows."""
        self._move(KeptEvent.WORKER_GONE)
        self._answer_open()
        if self._socket is not None:
            self._socket.abort("the worker ends")

    @property
    def at_rest(self) -> bool:
        """Nothing more will happen here."""
        return self.kept_state in (KeptState.BLOCKED, KeptState.CLOSED)

    def refuse(self, err_code: ErrCode, message: str) -> None:
        """End it before it dials: what it needs cannot be had."""
        self._give_up([ErrorEntry(err_code, message)], message)

    def abandon(self, reason: str) -> None:
        """The time for closing is over: decide the end now."""
        if not self._left:
            self.stop(1001, reason)
        if self._socket is not None:
            self._socket.abort(reason)

    def _cut_short(self, err_code: ErrCode, message: str, reason: str | None) -> None:
        if self.number:
            self._give_up([], reason or "terminated while reconnecting")
        else:
            self._give_up([ErrorEntry(err_code, message)], message, terminated=True)

    def _close(self, code: int, reason: str) -> None:
        assert self._socket is not None, "it is ready"
        self._letting_go = None
        self._move(KeptEvent.CLOSE_BEGUN)
        self._hears_no_more()
        self._sends.let_go()
        if self._socket.state is SocketState.OPEN:
            self._socket.close(code, reason)
        self._host.paused.discard(self)
