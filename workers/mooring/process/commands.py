"""The commands of requests, one function each: what a runtime is told to do, and the answer where nothing can be begun."""

from __future__ import annotations

from typing import assert_never

import msgspec

from mooring.connection.asked import resolve, resolve_checked
from mooring.connection.asking import Answer, Waiter
from mooring.connection.changing import change
from mooring.connection.kept import KeptConnection
from mooring.errors import ConnectionClosed, ErrCode, Invalid, InvalidRequest, LimitReached, NotKept, WrongState
from mooring.events import CallbackErrorEvent
from mooring.link.messages import (
    Call,
    CallFailed,
    Open,
    OpenInvalid,
    Reconnect,
    ReconnectDone,
    Taken,
    Terminate,
    TerminateDone,
)
from mooring.link.messages_changed import Change, Changed
from mooring.link.messages_sent import DropQueue, QueueDropped, RequestFailed, Send, SendRequest
from mooring.name_errors import SecretNotAllowed
from mooring.options import effective
from mooring.process.runtime import Runtime
from mooring.usercode import failures


def obey(
    runtime: Runtime, command: Change | Open | Send | SendRequest | DropQueue | Terminate | Reconnect | Call
) -> None:
    """Have `runtime` do one command of a request."""
    match command:
        case Change():
            _change(runtime, command)
        case Send():
            _send(runtime, command)
        case SendRequest():
            _ask(runtime, command)
        case DropQueue():
            _drop_queue(runtime, command)
        case Open():
            _open(runtime, command)
        case Terminate():
            _terminate(runtime, command)
        case Reconnect():
            _reconnect(runtime, command)
        case Call():
            _call(runtime, command)
        case _:
            assert_never(command)


def _open(runtime: Runtime, command: Open) -> None:
    request = command.connection_request
    if command.resumed is not None and (
        command.connection in runtime.connections or command.connection in runtime.constructions
    ):
        return  # told again, over a new link
    if runtime.stopping:
        runtime.answer(OpenInvalid(command.request, [Invalid("/worker", "the worker is being killed")]))
        return
    try:
        if command.resumed is None:  # else it was counted all the time
            runtime.check_limit()
        if command.handler is not None and request.handler is not None:
            runtime.constructions.begin(command, command.handler)
        else:
            options = resolve_checked(request, runtime.known)
            if command.resumed is None:  # else each attempt finds out
                runtime.check_secrets(options, declared=command.declared)
            runtime.begin(command, options, None)
    except SecretNotAllowed as exc:
        runtime.answer(OpenInvalid(command.request, [Invalid("/headers", str(exc))], secret=exc.secret, host=exc.host))
    except LimitReached as exc:
        runtime.answer(OpenInvalid(command.request, [Invalid("/worker", str(exc))], limit=exc.limit))
    except InvalidRequest as exc:
        if command.resumed is not None:  # of another program, which took it
            runtime.begin(command, effective(request), None).refuse(ErrCode.HANDLER_FAILED, str(exc))
        else:
            runtime.answer(OpenInvalid(command.request, exc.errors))


def _send(runtime: Runtime, command: Send) -> None:
    known = runtime.keyed_sends.get(command.key)
    if known is not None:
        runtime.answer(msgspec.structs.replace(known, request=command.request))
        return
    connection = runtime.connections.get(command.connection)
    answer = runtime.constructions.send(command) if connection is None else connection.send(command)
    if answer is not None:
        runtime.answer_send(answer, command.key)


def _ask(runtime: Runtime, command: SendRequest) -> None:
    known = runtime.keyed_replies.get(command.key)
    if known is not None:
        runtime.answer(msgspec.structs.replace(known, request=command.request))
        return
    connection = runtime.connections.get(command.connection)
    if connection is None:
        status = runtime.constructions.status(command.connection)
        runtime.answer(RequestFailed(command.request, "state", status))
        return

    def done(answer: Answer) -> None:
        runtime.answer_request(answer, command.key)

    connection.ask(Waiter(command.request, done, command.key, command.later), command.body, command.timeout_s)


def _drop_queue(runtime: Runtime, command: DropQueue) -> None:
    connection = runtime.connections.get(command.connection)
    if isinstance(connection, KeptConnection):
        connection.drop_queue(command.request)
        return
    if connection is None:
        runtime.answer(runtime.constructions.drop_queue(command.request, command.connection))
    else:
        runtime.answer(QueueDropped(command.request, runtime.flush(), connection.state.value))


def _terminate(runtime: Runtime, command: Terminate) -> None:
    connection = runtime.connections.get(command.connection)
    waiting = runtime.constructions.give_up(command.connection)
    if waiting is not None:
        # Without its handler: no callback has to wait for the context, and no other can follow.
        connection = runtime.begin(waiting, resolve(waiting.connection_request, known=runtime.known), None)
    if connection is None:
        runtime.answer(TerminateDone(command.request, runtime.flush()))
    else:
        connection.terminate(command.code, command.reason, command.request)


def _reconnect(runtime: Runtime, command: Reconnect) -> None:
    connection = runtime.connections.get(command.connection)
    if isinstance(connection, KeptConnection):
        connection.reconnect(command)
        return
    # Of one whose handler is still to be made its first socket is on its way: who asks for one gets that.
    status = runtime.constructions.status(command.connection) if connection is None else connection.state.value
    runtime.answer(ReconnectDone(command.request, runtime.flush(), status, kept=connection is None))


def _change(runtime: Runtime, command: Change) -> None:
    number, connection_id = command.request, command.connection
    connection = runtime.connections.get(connection_id)
    if connection is None:
        status = runtime.constructions.status(connection_id)
        runtime.answer(Changed(number, connection_id, runtime.flush(), status))
        return
    answer = Changed(number, connection_id, 0, connection.state.value)
    try:
        change(connection, command.changes, runtime.dialler.secrets, runtime.known)
    except InvalidRequest as exc:
        answer = msgspec.structs.replace(answer, errors=exc.errors)
    except SecretNotAllowed as exc:
        errors = [Invalid("/headers", str(exc))]
        answer = msgspec.structs.replace(answer, errors=errors, secret=exc.secret, host=exc.host)
    except NotKept:
        answer = msgspec.structs.replace(answer, kept=False)
    except (WrongState, ConnectionClosed):
        pass  # its state says so
    else:
        answer = msgspec.structs.replace(answer, done=True)
    runtime.answer(msgspec.structs.replace(answer, after=runtime.flush(), spec=connection.spec))


def _call(runtime: Runtime, command: Call) -> None:
    if command.ask:
        if runtime.stopping:
            return  # not taken: it is for the next process, or is discarded with all that waits
        runtime.answer(Taken(command.ask))
        if command.ask <= runtime.last_ask:
            return  # sent again, over a new link
        runtime.last_ask = command.ask
    if runtime.stopping:
        runtime.answer(CallFailed(command.request, "", "the worker is being killed", "", discarded=True))
    elif not runtime.mailbox.full_of_calls:
        runtime.mailbox.post_call(command)
    else:
        message = f"the mailbox of worker {runtime.worker} is full"
        if command.request:
            runtime.answer(CallFailed(command.request, "", message, "", full=True))
        else:
            # Nobody waits for the call: an event says so.
            error = CallbackErrorEvent(callback=command.name, exception="MailboxFull", message=message, traceback="")
            failures.record(runtime, None, error)
