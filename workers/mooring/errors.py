"""The error tree of mooring, and the table of ``errCode`` values.

::

    MooringError
    ├── RequestError              the caller's fault; nothing was started
    │   ├── InvalidRequest        values that are not valid (`errors` says where)
    │   ├── UnknownConnection     the id never existed or is no longer retained
    │   ├── UnknownWorker         no worker of that name
    │   ├── UnknownFunction       the name is not in [functions] / [handlers]
    │   ├── WrongState            the connection is not in a state for this
    │   ├── ConnectionClosed      the connection is Closed
    │   ├── WorkerBusy            being killed, drained or Failed
    │   ├── LimitReached          a configured limit
    │   ├── PolicyRefused         egress policy says no
    │   └── CallingSelf           a wait that could never end (deadlock)
    ├── ConnectError              a dial that failed (`errors` is 4D's list)
    ├── SendError                 a message that could not be written in time
    ├── HandlerError              user code that cannot be imported or constructed
    ├── CallError                 the called function raised
    ├── WorkerError
    │   ├── WorkerDied            the process ended under the request
    │   └── WorkerSilent          the process did not answer in time
    ├── Unavailable               stopping or adopting; try again
    ├── JournalUnavailable        the journal cannot be written
    └── LinkError                 bytes on the link that are not ours

An error keeps its facts as attributes and builds its text in ``__str__``.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

COMPONENT_SIGNATURE = "MOOR"
"""``componentSignature`` of every error that mooring itself reports (4D: four letters)."""


class ErrCode(IntEnum):
    """``errCode`` values. None equals a WebSocket close code (those are 1000 to 4999)."""

    # The dial.
    NAME_NOT_RESOLVED = 101
    REFUSED = 102
    UNREACHABLE = 103
    CONNECT_TIMEOUT = 104
    TLS_FAILED = 105
    POLICY_REFUSED = 106
    HANDSHAKE_STATUS = 107
    HANDSHAKE_INVALID = 108
    REDIRECT_REFUSED = 109
    TERMINATED_WHILE_CONNECTING = 110
    HANDLER_FAILED = 111
    PROXY_UNREACHABLE = 121
    PROXY_REFUSED = 122
    PROXY_AUTH_FAILED = 123
    PROXY_INVALID = 124
    # The open connection.
    PROTOCOL_ERROR = 201
    INVALID_DATA = 202
    MESSAGE_TOO_BIG = 203
    CONNECTION_LOST = 204
    PING_TIMEOUT = 205
    SEND_TIMEOUT = 206
    # The worker.
    WORKER_DIED = 301
    WORKER_STOPPING = 302
    SERVICE_STOPPED = 303


ERR_CODES: dict[ErrCode, str] = {
    ErrCode.NAME_NOT_RESOLVED: "the host name could not be resolved",
    ErrCode.REFUSED: "the peer refused the TCP connection",
    ErrCode.UNREACHABLE: "the TCP connection could not be made",
    ErrCode.CONNECT_TIMEOUT: "the handshake did not end within connectTimeout",
    ErrCode.TLS_FAILED: "the TLS handshake or the certificate check failed",
    ErrCode.POLICY_REFUSED: "the egress policy refuses the address",
    ErrCode.HANDSHAKE_STATUS: "the server answered the handshake with another status than 101",
    ErrCode.HANDSHAKE_INVALID: "the server's handshake breaks RFC 6455 section 4",
    ErrCode.REDIRECT_REFUSED: "the server answered the handshake with a redirect; redirects are not followed",
    ErrCode.TERMINATED_WHILE_CONNECTING: "the connection was terminated before it was open",
    ErrCode.HANDLER_FAILED: "the handler could not be imported or constructed",
    ErrCode.PROXY_UNREACHABLE: "no connection to the proxy: its name, TCP or TLS failed",
    ErrCode.PROXY_REFUSED: "the proxy refused to connect to the target",
    ErrCode.PROXY_AUTH_FAILED: "the proxy did not accept the credentials, or wants some",
    ErrCode.PROXY_INVALID: "the proxy's answer is neither HTTP nor SOCKS5 as asked for",
    ErrCode.PROTOCOL_ERROR: "the peer broke RFC 6455 (close code 1002)",
    ErrCode.INVALID_DATA: "a message could not be turned into dataType (close code 1007)",
    ErrCode.MESSAGE_TOO_BIG: "a message was larger than maxMessageSize (close code 1009)",
    ErrCode.CONNECTION_LOST: "the connection ended without a close frame",
    ErrCode.PING_TIMEOUT: "the peer sent nothing for pingTimeout after a ping",
    ErrCode.SEND_TIMEOUT: "the peer did not read for sendTimeout",
    ErrCode.WORKER_DIED: "the worker process ended unasked",
    ErrCode.WORKER_STOPPING: "the worker is being stopped",
    ErrCode.SERVICE_STOPPED: "the service stopped before the connection was open",
}
"""What each `ErrCode` means; the documentation is made from this table."""


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

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"no connection {self.connection}: it never existed or is no longer retained"


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
    """The connection is Connecting or Closing, so this cannot be done."""

    def __init__(self, connection: int, status: str) -> None:
        self.connection = connection
        self.status = status

    def __str__(self) -> str:
        return f"connection {self.connection} is {self.status}"


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


class CallingSelf(RequestError):
    """A wait for one's own context, which could never end."""

    def __str__(self) -> str:
        return "this would wait for the callback that is running now; use call_worker, which returns at once"


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
    """Bytes on the link between service and worker that break its protocol."""
