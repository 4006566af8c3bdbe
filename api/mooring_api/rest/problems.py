"""From errors to RFC 9457 problems. HTTP status is decided here and nowhere else. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring import errors as e
from mooring import send_errors as se
from mooring.errors import ErrorEntry, Invalid, MooringError
from mooring.name_errors import Declared, NameTaken, SecretNotAllowed
from mooring_service.cluster_errors import Elsewhere, EngineDown, NodeSilent, NodeUnreachable
from mooring_service.hook_errors import HookConfigured, HookConflict, UnknownHook
from mooring_service.opening import OpenError

PREFIX = "urn:mooring:problem:"


class ProblemType(msgspec.Struct, frozen=True):
    """One stable type of problem: all that is said of it anywhere.

    `later` says that the answer tells nothing about the request itself: the same one may succeed later, so no
    Idempotency-Key keeps it. `headers` are those that such an answer carries.
    """

    name: str
    status: int
    title: str
    when: str
    later: bool = False
    headers: tuple[str, ...] = ()


_RETRY = ("Retry-After",)

PROBLEMS = (
    ProblemType("bad-request", 400, "The request cannot be parsed", "HTTP, path, query, a header or the body is not what its format says."),
    ProblemType("unauthorized", 401, "A token is required", "There is no token, or one that is not known.", later=True, headers=("WWW-Authenticate",)),
    ProblemType("forbidden", 403, "The request is not allowed", "Host, Origin, or the scope of the token says no.", later=True),
    ProblemType("address-refused", 403, "The egress policy refuses the address", "`[egress]`, for hooks `[delivery]`, does not allow the address that would be dialled.", later=True),
    ProblemType("secret-not-allowed", 403, "The secret may not be sent to this host", "`${secret:NAME}` of a request, or of a handler that it names: `[secrets] NAME` is not bound to the host (`hosts`).", later=True),
    ProblemType("not-found", 404, "There is nothing at this path", "The path is none of the API's.", later=True),
    ProblemType("connection-not-found", 404, "No such connection", "It never existed, or is no longer retained.", later=True),
    ProblemType("worker-not-found", 404, "No such worker", "No worker has that name.", later=True),
    ProblemType("no-cluster", 404, "The service is no node of a cluster", "Its configuration has no `[cluster]`."),
    ProblemType("hook-not-found", 404, "No such hook", "No hook has that name.", later=True),
    ProblemType("method-not-allowed", 405, "The method is not allowed here", "`Allow` names those that are.", headers=("Allow",)),
    ProblemType("not-acceptable", 406, "None of the accepted media types can be served", "`Accept` names nothing that this is served as."),
    ProblemType("request-timeout", 408, "The request's body did not come in time", "The body, or the next line of it, has stopped.", later=True),
    ProblemType("wrong-state", 409, "The connection is not Connected", "It is still Connecting, Reconnecting, or Closing already. `Retry-After`, where it is known when it may be.", later=True),
    ProblemType("worker-busy", 409, "The worker takes nothing new", "It is being killed or drained, is Failed, or is of an older program that does not know an option.", later=True),
    ProblemType("worker-elsewhere", 409, "Another node of the cluster has it", "`node` says where it is to be, and it is not there; or it has moved while the request was passed on.", later=True),
    ProblemType("name-taken", 409, "The name is taken", "A connection that has not ended has it; `errors` point at what it was asked for otherwise.", later=True),
    ProblemType("declared", 409, "The configuration declares the connection", "It is changed and ended in `[connections]` of the file that the text names.", later=True),
    ProblemType("not-kept", 409, "The connection is not kept", "It was opened without `reconnect`: it has one socket, and no other."),
    ProblemType("id-in-use", 409, "A request of this id is pending", "The body has an id of its own, and so has a request whose reply has not come."),
    ProblemType("terminated", 409, "The connection was terminated before it was open", "Somebody has ended it, or its worker, while it was dialled."),
    ProblemType("still-running", 409, "The first request with this Idempotency-Key is still running", "Ask again when it has ended.", later=True),
    ProblemType("not-in-cluster", 409, "A node of a cluster does not do this yet", "Hooks run at single services alone."),
    ProblemType("hook-configured", 409, "The hook stands in the configuration", "It is changed there; SIGHUP has it read again."),
    ProblemType("hook-conflict", 409, "The hook does not allow it just now", "The event does not wait, there are three valid secrets, or its configuration is gone.", later=True),
    ProblemType("connection-closed", 410, "The connection is Closed", "It has ended; its record says how."),
    ProblemType("too-large", 413, "The body is too large", "The body, or a line of it, is above `limits.max_body_bytes`."),
    ProblemType("unsupported-media-type", 415, "The content type is not supported here", "`Content-Type` is missing or none of those that are taken, or the body is compressed."),
    ProblemType("invalid", 422, "The request is not valid", "It can be parsed; `errors` point at what is wrong."),
    ProblemType("unknown-function", 422, "The name is not in the configuration", "`[handlers]` or `[functions]` does not have it."),
    ProblemType("no-requests", 422, "The connection has no requests", "It was opened without `requests`: nobody knows where a reply has its id."),
    ProblemType("handler-error", 422, "The code cannot be used", "The module cannot be imported, or has no such attribute."),
    ProblemType("call-raised", 422, "The function raised an exception", "It has run, and its exception is in the problem."),
    ProblemType("key-reused", 422, "The Idempotency-Key stands for another request", "It was sent before, with another path or body."),
    ProblemType("limit-reached", 429, "A limit is reached", "`setting` names which, `limit` says how much it allows.", later=True, headers=_RETRY),
    ProblemType("headers-too-large", 431, "The headers are too large", "The request line, a header, or their number is above what is taken."),
    ProblemType("internal", 500, "mooring has made a mistake", "Its log has the traceback."),
    ProblemType("connect-failed", 502, "The connection could not be made", "`errors` is what `onError` tells; `connection` is its record."),
    ProblemType("opening-failed", 502, "The opening has failed", "The handshake was well, and then a step of the recipe was refused, or the server closed; `errors` is what `onError` tells."),
    ProblemType("send-uncertain", 502, "Nobody knows whether the message was sent", "The socket has ended while it was written; it is not sent again."),
    ProblemType("peer-error", 502, "The peer has answered with an error", "`reply` is what it has said."),
    ProblemType("reply-lost", 502, "The socket has ended before the reply came", "The request was sent, and may have been done."),
    ProblemType("worker-died", 502, "The worker died", "Its process has ended under the request."),
    ProblemType("unavailable", 503, "The service cannot do this just now", "It starts, stops, or adopts the workers of the one before; or a queue is full.", later=True, headers=_RETRY),
    ProblemType("engine-down", 503, "The cluster's engine is away", "What other nodes know cannot be asked; what this node holds is served.", later=True, headers=_RETRY),
    ProblemType("node-unreachable", 503, "The node cannot be reached", "The node of the cluster that holds the connection is gone.", later=True, headers=_RETRY),
    ProblemType("peer-not-reading", 503, "The peer is not reading", "What was not `sent` within `sendTimeout` was given up.", later=True, headers=_RETRY),
    ProblemType("queue-full", 503, "There is no room for the message to wait", "The connection is not ready, and what waits for it has reached `worker.outbound_bytes`.", later=True, headers=_RETRY),
    ProblemType("send-timeout", 504, "The message was not sent in time", "It has waited behind the queue for `sendTimeout`, and was taken out."),
    ProblemType("node-silent", 504, "The node did not answer in time", "The node of the cluster that holds the connection may have done what was asked; the same Idempotency-Key is safe."),
    ProblemType("reply-timeout", 504, "No reply has come in time", "The request was sent, and may have been done."),
    ProblemType("connect-timeout", 504, "The connection could not be made in time", "`connectTimeout` has passed; `errors` is what `onError` tells."),
    ProblemType("opening-timeout", 504, "No socket was ready in time", "A step of the recipe was not answered in time (`errors`), or `Prefer: wait` has ended, and it goes on all the same."),
    ProblemType("worker-silent", 504, "The worker did not answer in time", "It may have done what was asked."),
    ProblemType("journal-unavailable", 507, "The journal cannot be written", "Nothing was started; the disk is full, or fails.", later=True, headers=_RETRY),
)  # fmt: skip
"""Every problem that is ever served, by status: documentation, the API's description and tests are made from this table."""

TYPES = {kind.name: kind for kind in PROBLEMS}


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
        self.kind = TYPES[name]
        self.status = self.kind.status
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
            "title": self.kind.title,
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
        case EngineDown():
            return Problem("engine-down", text, headers={"Retry-After": "1"})
        case Elsewhere(asked=None):
            return Problem("worker-elsewhere", text, node=exc.node)
        case Elsewhere():
            return Problem("worker-elsewhere", text, node=exc.node, asked=exc.asked)
        case NodeUnreachable():
            return Problem("node-unreachable", text, headers={"Retry-After": "5"}, node=exc.node)
        case NodeSilent():
            return Problem("node-silent", text, node=exc.node)
        case UnknownHook():
            return Problem("hook-not-found", text)
        case HookConfigured():
            return Problem("hook-configured", text)
        case HookConflict():
            return Problem("hook-conflict", text)
        case e.UnknownFunction():
            pointer = "/handler/name" if exc.table == "handlers" else "/function"
            return Problem("unknown-function", text, errors=[Invalid(pointer, text)])
        case NameTaken():
            differences = [Invalid(place, "differs") for place in exc.places]
            return Problem("name-taken", text, errors=differences or None, connection=exc.connection)
        case Declared():
            return Problem("declared", text, file=exc.file)
        case e.WrongState():
            headers = {} if exc.retry_after_s is None else {"Retry-After": str(exc.retry_after_s)}
            return Problem("wrong-state", text, connection=exc.connection, connectionStatus=exc.status, headers=headers)
        case e.NotKept():
            return Problem("not-kept", text, connection=exc.connection)
        case e.ConnectionClosed():
            return Problem("connection-closed", text, connection=exc.connection)
        case e.WorkerBusy():
            return Problem("worker-busy", text, worker=exc.worker)
        case e.LimitReached():
            return Problem("limit-reached", text, setting=exc.setting, limit=exc.limit, headers={"Retry-After": "1"})
        case SecretNotAllowed():
            return Problem("secret-not-allowed", text, secret=exc.secret, host=exc.host)
        case e.PolicyRefused():
            return Problem("address-refused", text)
        case OpenError():
            name = "connect-failed"
            if exc.policy:
                name = "address-refused"
            elif exc.terminated:
                name = "terminated"
            elif exc.opening:
                name = "opening-timeout" if exc.timed_out else "opening-failed"
            elif exc.timed_out:
                name = "connect-timeout"
            return Problem(name, text, errors=exc.errors, connection=exc.connection)
        case se.SendUncertain():
            return Problem("send-uncertain", text, connection=exc.connection, sent=exc.sent, uncertain=exc.uncertain)
        case se.QueueFull():
            return Problem("queue-full", text, connection=exc.connection, headers={"Retry-After": "1"})
        case se.SendTimeout():
            return Problem("send-timeout", text, connection=exc.connection, sent=exc.sent)
        case se.NoRequests():
            return Problem("no-requests", text, connection=exc.connection)
        case se.IdInUse():
            return Problem("id-in-use", text, connection=exc.connection)
        case se.ReplyTimeout():
            return Problem("reply-timeout", text, connection=exc.connection)
        case se.ReplyLost():
            return Problem("reply-lost", text, connection=exc.connection)
        case se.PeerError():
            return Problem("peer-error", text, connection=exc.connection, reply=msgspec.Raw(exc.reply))
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
        case e.LinkError():
            return Problem("too-large", text)
        case _:
            return Problem("internal", type(exc).__name__)
