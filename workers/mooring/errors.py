"""The error tree of mooring, and the table of ``errCode`` values.

::

    MooringError
    ├── RequestError              the caller's fault; nothing was started
    │   ├── InvalidRequest        values that are not valid (`errors` says where)
    │   ├── UnknownConnection     the id never existed or is no longer retained
    │   ├── UnknownWorker         no worker of that name
    │   ├── UnknownFunction       the name is not in [functions] / [handlers]
    │   ├── NameTaken             another connection that has not ended has the name
    │   ├── Declared              the configuration has it, and alone changes and ends it
    │   ├── IdInUse               a request of this id is pending
    │   ├── NoRequests            the connection was opened without requests
    │   ├── WrongState            the connection is not in a state for this
    │   ├── NotKept               the connection was not asked to reconnect
    │   ├── ConnectionClosed      the connection is Closed
    │   ├── WorkerBusy            being killed, drained or Failed
    │   │   └── WorkerTooOld      of an older program that does not know an option
    │   ├── LimitReached          a configured limit
    │   ├── SecretNotAllowed      a secret is not bound to the host
    │   └── PolicyRefused         egress policy says no
    ├── ConnectError              a dial that failed (`errors` is 4D's list)
    ├── SendError                 a message that could not be written in time
    │   └── SendTimeout           it waited behind the queue (`send_errors`, as the next five)
    ├── SendUncertain             the socket has ended while it was written
    ├── QueueFull                 no room for a message to wait
    ├── ReplyTimeout              no reply to a request has come in time
    ├── ReplyLost                 the socket has ended before the reply came
    ├── PeerError                 the reply is an error of the peer
    ├── HandlerError              user code that cannot be imported or constructed
    ├── CallError                 the called function raised
    ├── WorkerError
    │   ├── WorkerDied            the process ended under the request
    │   └── WorkerSilent          the process did not answer in time
    ├── Unavailable               stopping or adopting; try again
    ├── JournalUnavailable        the journal cannot be written
    └── LinkError                 bytes on the link that are not ours, or too many at once

An error keeps its facts as attributes and builds its text in ``__str__``.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

COMPONENT_SIGNATURE = "MOOR"
"""``componentSignature`` of every error that mooring itself reports (4D: four letters)."""


class ErrCode(IntEnum):
    """``errCode`` values: a number, what it means, and what to do. None equals a WebSocket close code (1000 to 4999).

    A number that was public is never used for something else (`UNUSED_CODES`).
    """

    meaning: str
    remedy: str

    def __new__(cls, number: int, meaning: str = "", remedy: str = "") -> ErrCode:
        """Make a member of its row; called with a number alone, the class finds it."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        code.remedy = remedy
        return code

    # fmt: off
    # The dial.
    NAME_NOT_RESOLVED = 101, "the host name could not be resolved", "check the name, and the resolver of the worker's machine"
    REFUSED = 102, "the peer refused the TCP connection", "check the port, and whether the server runs"
    UNREACHABLE = 103, "the TCP connection could not be made", "check route and firewall; the message has the system's reason"
    CONNECT_TIMEOUT = 104, "the handshake did not end within connectTimeout", "try again; raise connectTimeout if the server is slow"
    TLS_FAILED = 105, "the TLS handshake or the certificate check failed", "check the certificate; tls.caFile names an authority of your own"
    POLICY_REFUSED = 106, "the egress policy refuses the address", "allow it in [egress], if it is to be reached"
    HANDSHAKE_STATUS = 107, "the server answered the handshake with another status than 101", "the status says why: often a path, or credentials in headers"
    HANDSHAKE_INVALID = 108, "the server's handshake breaks RFC 6455 section 4", "the address may be no WebSocket server's"
    REDIRECT_REFUSED = 109, "the server answered the handshake with a redirect; redirects are not followed", "dial the address that it names"
    TERMINATED_WHILE_CONNECTING = 110, "the connection was terminated before it was open", "nothing: it was asked for"
    HANDLER_FAILED = 111, "the handler could not be imported or constructed", "mooring check says what is wrong with it"
    OPENING_FAILED = 112, "a step of the opening was refused, or not answered in time", "the message names the step; comes with `recipe`"
    RENEW_FAILED = 113, "what an attempt needs could not be fetched", "the message has the reason: a secret, or what `recipe.renew` brings"
    PROXY_UNREACHABLE = 121, "no connection to the proxy: its name, TCP or TLS failed", "check the proxy's url, and whether it runs"
    PROXY_REFUSED = 122, "the proxy refused to connect to the target", "ask whoever runs the proxy; many allow port 443 only"
    PROXY_AUTH_FAILED = 123, "the proxy did not accept the credentials, or wants some", "check username and password of the proxy"
    PROXY_INVALID = 124, "the proxy's answer is neither HTTP nor SOCKS5 as asked for", "check the scheme of the proxy's url"
    # The open connection.
    PROTOCOL_ERROR = 201, "the peer broke RFC 6455 (close code 1002)", "tell whoever runs the peer"
    INVALID_DATA = 202, "a message could not be turned into dataType (close code 1007)", "choose another dataType"
    MESSAGE_TOO_BIG = 203, "a message was larger than maxMessageSize (close code 1009)", "raise maxMessageSize"
    CONNECTION_LOST = 204, "the connection ended without a close frame", "open another; the peer or something between has gone"
    PING_TIMEOUT = 205, "the peer sent nothing for pingTimeout after a ping", "open another; raise pingTimeout if the peer is only slow"
    KEEPALIVE_TIMEOUT = 207, "the peer did not answer the application's heartbeat", "open another; comes with `keepAlive`"
    SILENT = 208, "no message came for dataTimeout", "open another; comes with `dataTimeout`"
    GAVE_UP = 209, "the connection was down for giveUpAfter", "raise giveUpAfter, or open it again when the server is back"
    STOPPED_BY_RECIPE = 210, "a message said that it is the end (stopWhen)", "the message names the rule; comes with `recipe`"
    # The worker.
    WORKER_DIED = 301, "the worker process ended unasked", "workerExited and the worker's log say why"
    WORKER_STOPPING = 302, "the worker is being stopped", "nothing: it was asked for"
    SERVICE_STOPPED = 303, "the service stopped before the connection was open", "open it again"
    WORKER_DRAINED = 304, "the worker was drained; a kept connection is opened again in its new process", "nothing: it was asked for"
    NODE_LOST = 305, "the node that held the connection is lost", "comes with `[cluster]`, which opens what is persisted on another node"
    # fmt: on


UNUSED_CODES: dict[int, str] = {206: "SEND_TIMEOUT"}
"""Numbers that the documentation once had and nothing sends: they stay free."""


class ErrorEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of 4D's ``errors``: outermost first in a list of them."""

    err_code: int
    message: str
    component_signature: str = COMPONENT_SIGNATURE


class Invalid(msgspec.Struct, frozen=True):
    """One invalid value: `pointer` is a JSON pointer into the body (or ``query:name``)."""

    pointer: str
    detail: str


class MooringError(Exception):
    """Base of everything that mooring raises on purpose."""


class RequestError(MooringError):
    """The caller asked for something that cannot be; nothing was started."""


class InvalidRequest(RequestError):
    """One or more values are not valid."""

    def __init__(self, errors: list[Invalid]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(f"{e.pointer}: {e.detail}" if e.pointer else e.detail for e in self.errors)


class UnknownConnection(RequestError):
    """The id never existed, or its record is no longer retained."""

    def __init__(self, connection: int | str) -> None:
        self.connection = connection

    def __str__(self) -> str:
        which = repr(self.connection) if isinstance(self.connection, str) else self.connection
        return f"no connection {which}: it never existed or is no longer retained"


class UnknownWorker(RequestError):
    """No worker of that name."""

    def __init__(self, worker: str) -> None:
        self.worker = worker

    def __str__(self) -> str:
        return f"no worker {self.worker!r}"


class UnknownFunction(RequestError):
    """The public name is not in the configuration's table."""

    def __init__(self, table: str, name: str, nearest: str | None = None) -> None:
        self.table = table
        self.name = name
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.name!r} is not in [{self.table}] of the configuration{hint}"


class WrongState(RequestError):
    """The connection is Connecting or Closing, so this cannot be done.

    Attributes:
        retry_after_s: When it may be ready; None: nobody knows.
    """

    def __init__(self, connection: int, status: str, retry_after_s: int | None = None) -> None:
        self.connection = connection
        self.status = status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"connection {self.connection} is {self.status}"


class NotKept(RequestError):
    """The connection was not asked to ``reconnect``, so this means nothing for it."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"connection {self.connection} is not kept: it was opened without reconnect"


class ConnectionClosed(RequestError):
    """The connection is Closed."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"connection {self.connection} is Closed"


class WorkerBusy(RequestError):
    """The worker takes nothing new: it is being killed or drained, or it is Failed."""

    def __init__(self, worker: str, status: str) -> None:
        self.worker = worker
        self.status = status

    def __str__(self) -> str:
        return f"worker {self.worker!r} is {self.status} and takes nothing new"


class WorkerTooOld(WorkerBusy):
    """The worker runs an older program, which does not know what is asked for (`keys` of the create body)."""

    def __init__(self, worker: str, keys: list[str]) -> None:
        super().__init__(worker, "too old")
        self.keys = keys

    def __str__(self) -> str:
        return (
            f"worker {self.worker!r} runs an older program, which does not know {', '.join(self.keys)}; "
            f"it is renewed by: mooring workers drain {self.worker}"
        )


class LimitReached(RequestError):
    """A configured limit is reached."""

    def __init__(self, setting: str, limit: int) -> None:
        self.setting = setting
        self.limit = limit

    def __str__(self) -> str:
        return f"limit reached: {self.setting} = {self.limit}"


class PolicyRefused(RequestError):
    """The egress policy refuses this url or this option."""

    def __init__(self, detail: str) -> None:
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class ConnectError(MooringError):
    """A dial that failed: what ``WebSocket.new`` raises.

    Attributes:
        errors: 4D's list, outermost first (the same list as in ``onError``).
        connection: The id of the connection's closed record, or 0.
    """

    def __init__(self, errors: list[ErrorEntry], connection: int = 0) -> None:
        self.errors = errors
        self.connection = connection

    def __str__(self) -> str:
        return self.errors[0].message if self.errors else "the connection could not be made"


class SendError(MooringError):
    """A message that could not be written within ``sendTimeout``: the peer is not reading.

    Attributes:
        sent: How many messages of the request were written before.
    """

    def __init__(self, connection: int, sent: int = 0) -> None:
        self.connection = connection
        self.sent = sent

    def __str__(self) -> str:
        return f"the peer of connection {self.connection} is not reading"


class HandlerError(MooringError):
    """User code that cannot be imported, found or constructed; `detail` is the real reason."""

    def __init__(self, reference: str, detail: str) -> None:
        self.reference = reference
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reference}: {self.detail}"


class CallError(MooringError):
    """The called function raised."""

    def __init__(self, exception: str, message: str, traceback: str) -> None:
        self.exception = exception
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.exception}: {self.message}"


class WorkerError(MooringError):
    """The worker process is at fault."""

    def __init__(self, worker: str, detail: str) -> None:
        self.worker = worker
        self.detail = detail

    def __str__(self) -> str:
        return f"worker {self.worker!r}: {self.detail}"


class WorkerDied(WorkerError):
    """The worker process ended under the request."""


class WorkerSilent(WorkerError):
    """The worker process did not answer in time."""


class Unavailable(MooringError):
    """The service is stopping or still adopting its workers."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.detail


class JournalUnavailable(MooringError):
    """The journal cannot be written (disk full, read-only directory); nothing was started."""

    def __init__(self, detail: str) -> None:
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class LinkError(MooringError):
    """Bytes on the link between service and worker that break its protocol, or would."""
