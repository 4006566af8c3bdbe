"""What worker and service say to each other: tagged Struct unions and their codecs. No I/O.

`Command` goes down (service → worker), `Report` goes up. Each message is one frame on the link (`channel.py`).
New fields get defaults and go last; no field is ever retyped or reordered: workers hold old code for days.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mooring.bounds import MAX_CONNECTIONS, MAX_PENDING_REQUESTS, RedialLimits, WorkerBounds
from mooring.dial_options import DialSettings
from mooring.errors import ErrorEntry, Invalid
from mooring.link.lenient import lenient
from mooring.link.messages_changed import Change, Changed
from mooring.link.messages_sent import (
    DropQueue,
    QueueDropped,
    Replied,
    RequestFailed,
    RequestTaken,
    Send,
    SendFailed,
    SendQueued,
    SendRequest,
    Sent,
)
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring.options import ConnectionRequest

PROTOCOL_VERSION = 6
"""Told in `Hello` and `Welcome`. 1: the first release. 2: `Welcome` tells it, and requests are read leniently. 3: what code in
workers asks of others is numbered (`Call.ask`, `Taken`). 4: connections that stay (`reconnect`, `Reconnect`), and how is dialled
(`proxy` and its like; an older worker would skip them, and dial directly). 5: workers keep to a window of `Events`, and count calls.
6: names, ``${secret:…}``, which an older worker would send as it stands, what waits to be sent (`whenDown`, `DropQueue`), requests,
recipes, heartbeats and the clock of messages.

A create option says in its row (`Option.since`) which version brought it; the service does not ask an older worker for it.
"""
OLDEST_PROTOCOL_VERSION = 1  # the oldest that this code still speaks

if TYPE_CHECKING:
    LinkRequest = ConnectionRequest
    LinkLimits = RedialLimits
    LinkDial = DialSettings
else:
    LinkRequest = lenient(ConnectionRequest)
    """A create request as it travels in `Open`."""
    LinkLimits = lenient(RedialLimits)
    """``[redial]`` as it travels in `Reconfigure`."""
    LinkDial = lenient(DialSettings)
    """``[dial]`` and ``[proxies]``, as workers are told them."""


class Welcome(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The answer to `Hello`: the number of the last `Events` that the journal holds, and the link's version (the first did not say it).

    `window_bytes`: so many of `Events` may be on their way and not `Stored`, and the frame that crosses it; 0: any number.
    `full_at`: the service holds so many connections, all that it may: code in the worker opens no further ones; 0: it may.
    """

    stored: int
    first_id: int
    id_count: int
    version: int = 1
    window_bytes: int = 0
    full_at: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The other answer to `Hello`; `drain`: close the connections and end, instead of trying again."""

    reason: str
    drain: bool = False


class Stored(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The journal holds all `Events` up to `number`: the outbox may forget them. The rest is as in `Welcome`, from now on.

    `next_us`: under load it is told in a rhythm; of what is sent now it is told so many microseconds later. 0: at once.
    """

    number: int
    window_bytes: int = 0
    full_at: int = 0
    next_us: int = 0


class GrantIds(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A further block of connection ids, for connections that code in the worker opens."""

    first_id: int
    id_count: int


class Open(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Dial. `handler` is the ``module:attribute`` behind the public name in `connection_request`.

    `resumed`: it is a kept one that another process of the worker has held, and this is how it stood there. `declared`: the
    configuration has it.
    """

    request: int
    connection: int
    connection_request: LinkRequest
    handler: str | None = None
    created_at_us: int = 0
    resumed: ConnectionUpdate | None = None
    declared: bool = False


class Terminate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Close a connection; `code` None means 1000."""

    request: int
    connection: int
    code: int | None = None
    reason: str | None = None


class Reconnect(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give a kept connection a new socket, after `delay_s`; the one that it has is closed with `code`.

    `wait`: answer once that one is ready, or the connection has ended.
    """

    request: int
    connection: int
    delay_s: float = 0.0
    code: int = 1000
    reason: str = ""
    wait: bool = False


class Call(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Run ``module:attribute`` in the context; `name` is what logs and records show.

    `ask`: the number of what code has asked for, 0 for a request; it only grows, and what was `Taken` is not taken again.
    """

    request: int
    name: str
    reference: str
    params: dict[str, Any] | list[Any]
    key: str | None = None
    ask: int = 0


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """End: finish the running item, discard what is pending, close connections with 1001, then exit.

    `drain`: another process follows, which opens the kept ones again. `persist`: the next service does so with what persists.
    """

    reason: str
    grace_s: float
    drain: bool = False
    persist: bool = False


class Probe(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Is the I/O loop alive? It answers with `Stats`; before `Welcome` it only hears that there is a service.

    `until`: in a cluster, the CLOCK_BOOTTIME (seconds) up to which the worker may hold its connections; 0.0: as was said before.
    """

    probe: int = 0
    until: float = 0.0


class Reconfigure(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Settings that change at run time: they hold for dials from now on. What is None stays as it was.

    `in_memory`: so is the journal, and nothing persists.
    """

    egress_allow: list[str]
    egress_deny: list[str]
    allow_insecure_tls: bool
    max_connections: int
    redial: LinkLimits | None = None
    dial: LinkDial | None = None
    max_pending_requests: int = MAX_PENDING_REQUESTS
    recipes: dict[str, str] | None = None
    functions: dict[str, str] | None = None
    in_memory: bool = False


Command = (
    Change | Welcome | Refused | Stored | GrantIds | Open | Send | SendRequest | DropQueue | Terminate | Reconnect | Call | Stop | Probe
    | Reconfigure
)  # fmt: skip


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The first frame of a worker, on every dial. `connections`: each a packed `HeldConnection` (`held.py`)."""

    oldest_version: int
    version: int
    build: str
    worker: str
    incarnation: str
    secret: str
    pid: int
    started_at_ticks: int
    boot_id: str
    first_unstored: int
    connections: list[msgspec.Raw] = []
    restarts: int = 0


class Resent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Everything up to `number` that was not stored has been sent again, all of it before this: what neither `Hello` nor any of
    those `Events` has named, the worker does not have.
    """

    number: int


class AskCall(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Code in this worker wants a call to run in another one (``call_worker``)."""

    worker: str
    name: str
    params: dict[str, Any] | list[Any]


class AskKill(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Code in this worker wants a worker killed (``kill_worker``)."""

    worker: str


class Events(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A numbered batch: events as columns, the records that changed with them, and what code in the worker asks for.

    `connections`: one signed 64-bit little-endian id per event. `kinds`: one byte per event. `bodies`: the events'
    bodies (`events.py`) joined by a line feed, which no body contains. Any of them may be empty.
    """

    number: int
    connections: bytes
    kinds: bytes
    bodies: bytes
    created: list[ConnectionCreated] = []
    updates: list[ConnectionUpdate] = []
    asks: list[AskCall | AskKill] = []
    began_at_us: int = 0
    """When the oldest of its events was recorded, by CLOCK_MONOTONIC, which all processes of a machine share; 0: not known."""


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An `Open` has ended well; show it once `after` is stored."""

    request: int
    after: int


class OpenFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A dial has failed; `timed_out` when it took too long, `terminated` when it was told to stop, `opening`: after the handshake."""

    request: int
    after: int
    errors: list[ErrorEntry]
    timed_out: bool = False
    terminated: bool = False
    policy: bool = False
    opening: bool = False


class OpenInvalid(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nothing was dialled: the handler, or what it asks for, is not usable; the limit of connections is reached; or `secret` may
    not be sent to `host`.
    """

    request: int
    errors: list[Invalid]
    limit: int = 0
    secret: str = ""
    host: str = ""


class TerminateDone(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The connection is Closed; show it once `after` is stored."""

    request: int
    after: int


class ReconnectDone(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An order for a new socket was taken, or (`wait`) the socket is ready; show it once `after` is stored.

    `status`: the connection's, ``""`` when the worker does not hold it. `kept` False: it has one socket and no other.
    """

    request: int
    after: int
    status: str
    kept: bool = True


class Called(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A call has run; `result` is JSON. Show it once `after` is stored: it may speak of what the call has opened."""

    request: int
    result: bytes
    after: int = 0


class CallFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A call raised, or could not begin (`invalid`: the function cannot be imported or takes other parameters)."""

    request: int
    exception: str
    message: str
    traceback: str
    invalid: bool = False
    discarded: bool = False
    after: int = 0
    full: bool = False


class Taken(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All calls up to number `ask` of what was asked for are in the mailbox, or told as events: they need not be sent again."""

    ask: int


class Stats(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How the worker does; sent every second while anything changed, and in answer to `Probe`.

    `updates`: of connections whose figures changed without an event (sends, round trips). `calls`: those that wait, or run.
    """

    probe: int = 0
    mailbox: int = 0
    mailbox_bytes: int = 0
    running: str | None = None
    running_s: float = 0.0
    cpu_s: float = 0.0
    rss_bytes: int = 0
    outbox: int = 0
    outbox_bytes: int = 0
    inbound_paused: int = 0
    metrics: bytes = b""
    updates: list[ConnectionUpdate] = []
    discarded: int = 0
    calls: int = 0


class AskIds(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The block of connection ids runs low."""


class Goodbye(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The worker ends as told: what it discarded, how many connections it closed."""

    discarded: int
    closed: int


Report = (
    Changed | Hello | Resent | Events | Opened | OpenFailed | OpenInvalid | Sent | SendFailed | SendQueued | QueueDropped | Replied
    | RequestFailed | RequestTaken     | TerminateDone | ReconnectDone | Called | CallFailed | Taken | Stats | AskIds | Goodbye
)  # fmt: skip


class WorkerSettings(WorkerBounds, frozen=True, kw_only=True):
    """What a worker process is started with: JSON on its standard input, as arguments and environment stand in ``/proc``."""

    worker: str
    incarnation: str
    secret: str
    socket_path: str
    log_file: str
    exit_record: str
    app_dirs: list[str] = msgspec.field(default_factory=list)
    restarts: int = 0
    max_connections: int = MAX_CONNECTIONS
    egress_allow: list[str] = msgspec.field(default_factory=list)
    egress_deny: list[str] = msgspec.field(default_factory=list)
    allow_insecure_tls: bool = False
    log_format: Literal["json", "console"] = "json"
    redial: RedialLimits = RedialLimits()
    kill_timeout_s: float = 1.5  # whoever has sent a SIGTERM sends SIGKILL after so long
    dial: LinkDial = DialSettings()
    max_pending_requests: int = MAX_PENDING_REQUESTS
    recipes: dict[str, str] = msgspec.field(default_factory=dict)
    functions: dict[str, str] = msgspec.field(default_factory=dict)
    in_memory: bool = False  # the journal


command_decoder = msgspec.msgpack.Decoder(Command)
report_decoder = msgspec.msgpack.Decoder(Report)
