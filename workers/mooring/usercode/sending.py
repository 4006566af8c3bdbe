"""What code in a worker sends: from a value to a frame, or to a reply. Any thread of the worker may call it, but the I/O loop."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from mooring import json_text
from mooring.checks import check_timeout, check_waiting
from mooring.connection.asking import Answer, Waiter
from mooring.connection.kept import KeptConnection
from mooring.connection.live import LiveConnection
from mooring.connection.state import ConnectionState
from mooring.deadline import result_of
from mooring.errors import (
    ConnectionClosed,
    Invalid,
    InvalidRequest,
    LimitReached,
    MooringError,
    NotKept,
    SendError,
    WrongState,
)
from mooring.link.messages_sent import Replied, RequestFailed
from mooring.send_errors import IdInUse, NoRequests, PeerError, ReplyLost, ReplyTimeout
from mooring.usercode.host import CodeHost
from mooring.wire.frames import BINARY, TEXT

IO_LOOP_S = 5.0  # the I/O loop takes a message at once; this only guards against the loop itself


def send(
    host: CodeHost, connection: LiveConnection, state: ConnectionState, message: Any, when_down: str | None, ttl: Any
) -> int | None:
    """Do what `WebSocket.send` says; `state` is the one that the caller has seen."""
    opcode, payload = _frame(message)
    ttl_s = _ttl_s(connection, when_down, ttl)
    if state is ConnectionState.CONNECTED and host.reserve(connection, len(payload)):
        host.post(connection.send_from_worker, opcode, payload, ttl_s)
        return None
    if ttl_s is not None and state not in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        queue_id = _queue(host, connection, opcode, payload, ttl_s)
        if queue_id is not None:
            return queue_id
    raise _refusal(connection.id, connection.state if state is ConnectionState.CONNECTED else state)


def _frame(message: Any) -> tuple[int, bytes]:
    if isinstance(message, str):
        return TEXT, str.encode(message, "utf-8")
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    if isinstance(message, (dict, list)):
        return TEXT, json_text.encode(message)
    raise TypeError(f"send takes str, bytes, dict or list, not {type(message).__name__}")


def _ttl_s(connection: LiveConnection, when_down: str | None, ttl: float | None) -> float | None:
    wrong = check_waiting(when_down, ttl, "/")
    if wrong:
        raise InvalidRequest(wrong)
    if isinstance(connection, KeptConnection):
        return connection.ttl_s(when_down, ttl)
    if when_down == "queue":
        raise NotKept(connection.id)
    return None


def _queue(host: CodeHost, connection: LiveConnection, opcode: int, payload: bytes, ttl_s: float) -> int | None:
    assert isinstance(connection, KeptConnection), "only there a message may wait"
    done: Future[int | None] = Future()
    host.post(connection.queue_from_worker, opcode, payload, ttl_s, done)
    try:
        return result_of(done, IO_LOOP_S)
    except TimeoutError:
        if done.cancel():
            raise SendError(connection.id) from None
        return done.result()


def _refusal(connection: int, state: ConnectionState) -> MooringError:
    return ConnectionClosed(connection) if state is ConnectionState.CLOSED else WrongState(connection, state.value)


def ask(host: CodeHost, connection: LiveConnection, value: Any, timeout_s: Any) -> Future[Answer]:
    """Send a request; the future ends when it is answered, or cannot be any more.

    Raises:
        InvalidRequest: If `timeout_s` is not valid.
        TypeError: If `value` is no dict or list.
    """
    wrong = check_timeout(timeout_s, "/")
    if wrong:
        raise InvalidRequest(wrong)
    if not isinstance(value, (dict, list)):
        raise TypeError(f"request takes dict or list, not {type(value).__name__}")
    answer: Future[Answer] = Future()

    def done(found: Answer) -> None:
        if answer.set_running_or_notify_cancel():
            answer.set_result(found)

    host.post(connection.ask, Waiter(0, done), json_text.encode(value), timeout_s)
    return answer


def reply_of(connection: LiveConnection, asked: Future[Answer], timeout_s: float) -> Any:
    """Wait for the answer, and return the reply's value."""
    try:
        return value_of(connection, result_of(asked, timeout_s + IO_LOOP_S))
    except TimeoutError:
        raise ReplyTimeout(connection.id) from None


def value_of(connection: LiveConnection, answer: Answer) -> Any:
    """Return the reply's value, or raise what stands for its lack."""
    if isinstance(answer, Replied):
        reply = json_text.decode(answer.payload)
        if answer.failed:
            raise PeerError(connection.id, reply)
        return reply
    assert isinstance(answer, RequestFailed), "code in the worker waits for its reply"
    match answer.why:
        case "timeout":
            raise ReplyTimeout(connection.id)
        case "lost":
            raise ReplyLost(connection.id)
        case "limit":
            raise LimitReached("limits.max_pending_requests", connection.max_pending_requests)
        case "id":
            raise IdInUse(connection.id)
        case "place":
            raise InvalidRequest([Invalid("", "the value has no place for an id where requests.id says")])
        case "stalled":
            raise SendError(connection.id)
        case "none":
            raise NoRequests(connection.id)
        case "state":
            raise _refusal(connection.id, ConnectionState(answer.status))
