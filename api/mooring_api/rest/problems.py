"""From errors to RFC 9457 problems. HTTP status is decided here and nowhere else. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring import errors as e
from mooring.errors import ErrorEntry, Invalid, MooringError
from mooring_service.opening import OpenError

PREFIX = "urn:mooring:problem:"


class ProblemType(msgspec.Struct, frozen=True):
    """One stable type: its HTTP status and title."""

    status: int
    title: str


TYPES: dict[str, ProblemType] = {
    "bad-request": ProblemType(400, "The request cannot be parsed"),
    "invalid": ProblemType(422, "The request is not valid"),
    "unauthorized": ProblemType(401, "A token is required"),
    "forbidden": ProblemType(403, "The request is not allowed"),
    "address-refused": ProblemType(403, "The egress policy refuses the address"),
    "not-found": ProblemType(404, "There is nothing at this path"),
    "connection-not-found": ProblemType(404, "No such connection"),
    "worker-not-found": ProblemType(404, "No such worker"),
    "method-not-allowed": ProblemType(405, "The method is not allowed here"),
    "not-acceptable": ProblemType(406, "None of the accepted media types can be served"),
    "request-timeout": ProblemType(408, "The request's body did not come in time"),
    "wrong-state": ProblemType(409, "The connection is not Connected"),
    "worker-busy": ProblemType(409, "The worker takes nothing new"),
    "terminated": ProblemType(409, "The connection was terminated before it was open"),
    "still-running": ProblemType(409, "The first request with this Idempotency-Key is still running"),
    "connection-closed": ProblemType(410, "The connection is Closed"),
    "too-large": ProblemType(413, "The body is too large"),
    "unsupported-media-type": ProblemType(415, "The content type is not supported here"),
    "unknown-function": ProblemType(422, "The name is not in the configuration"),
    "handler-error": ProblemType(422, "The code cannot be used"),
    "call-raised": ProblemType(422, "The function raised an exception"),
    "key-reused": ProblemType(422, "The Idempotency-Key stands for another request"),
    "limit-reached": ProblemType(429, "A limit is reached"),
    "headers-too-large": ProblemType(431, "The headers are too large"),
    "internal": ProblemType(500, "mooring has made a mistake"),
    "connect-failed": ProblemType(502, "The connection could not be made"),
    "worker-died": ProblemType(502, "The worker died"),
    "unavailable": ProblemType(503, "The service cannot do this just now"),
    "peer-not-reading": ProblemType(503, "The peer is not reading"),
    "connect-timeout": ProblemType(504, "The connection could not be made in time"),
    "worker-silent": ProblemType(504, "The worker did not answer in time"),
    "journal-unavailable": ProblemType(507, "The journal cannot be written"),
}
"""Every problem that is ever served; the documentation and the API's description are made from this table."""


class Problem(Exception):
    """An answer that is an error: RFC 9457's members, and `extra` ones of the type."""

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        errors: list[Invalid] | list[ErrorEntry] | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        self.name = name
        self.status = TYPES[name].status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.status} {self.name}: {self.detail}"

    def body(self) -> bytes:
        """Return the JSON of the problem."""
        members: dict[str, Any] = {
            "type": PREFIX + self.name,
            "title": TYPES[self.name].title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            members["errors"] = self.errors
        members.update(self.extra)
        return msgspec.json.encode(members)


def problem_of(exc: MooringError) -> Problem:
    """Return the problem that an error of the lower floors is."""
    text = str(exc)
    match exc:
        case e.InvalidRequest():
            return Problem("invalid", text, errors=exc.errors)
        case e.UnknownConnection():
            return Problem("connection-not-found", text)
        case e.UnknownWorker():
            return Problem("worker-not-found", text)
        case e.UnknownFunction():
            pointer = "/handler/name" if exc.table == "handlers" else "/function"
            return Problem("unknown-function", text, errors=[Invalid(pointer, text)])
        case e.WrongState():
            return Problem("wrong-state", text, connection=exc.connection, connectionStatus=exc.status)
        case e.ConnectionClosed():
            return Problem("connection-closed", text, connection=exc.connection)
        case e.WorkerBusy():
            return Problem("worker-busy", text, worker=exc.worker)
        case e.LimitReached():
            return Problem("limit-reached", text, setting=exc.setting, limit=exc.limit, headers={"Retry-After": "1"})
        case e.PolicyRefused():
            return Problem("address-refused", text)
        case OpenError():
            name = "connect-failed"
            if exc.policy:
                name = "address-refused"
            elif exc.terminated:
                name = "terminated"
            elif exc.timed_out:
                name = "connect-timeout"
            return Problem(name, text, errors=exc.errors, connection=exc.connection)
        case e.SendError():
            return Problem("peer-not-reading", text, sent=exc.sent, headers={"Retry-After": "1"})
        case e.HandlerError():
            return Problem("handler-error", text)
        case e.CallError():
            return Problem("call-raised", text, exception=exc.exception, message=exc.message, traceback=exc.traceback)
        case e.WorkerDied():
            return Problem("worker-died", text, worker=exc.worker)
        case e.WorkerSilent():
            return Problem("worker-silent", text, worker=exc.worker)
        case e.Unavailable():
            return Problem("unavailable", text, headers={"Retry-After": str(exc.retry_after_s)})
        case e.JournalUnavailable():
            return Problem("journal-unavailable", text, headers={"Retry-After": "5"})
        case _:
            return Problem("internal", type(exc).__name__)
