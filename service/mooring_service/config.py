"""The configuration: frozen Structs by owner, read once (`config_file`), passed to constructors.

Durations are seconds, sizes bytes. A setting is one row of its table's Struct: what reads it, checks it and documents it
follows from that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mooring.bounds import MAX_CONNECTIONS, MAX_PENDING_REQUESTS, Count, Positive, RedialLimits, WorkerBounds
from mooring.bounds import doc as _doc
from mooring.dial_options import BoundSecret, DialSettings, ProxySettings, SecretSource
from mooring.link.channel import MAX_COMMAND_BYTES
from mooring_service.cluster_config import ClusterConfig
from mooring_service.hook_options import DeliveryConfig, HookSettings

BodySize = Annotated[int, msgspec.Meta(ge=1, le=MAX_COMMAND_BYTES)]
Scope = Literal["read", "send", "manage"]


class ConfigError(Exception):
    """A configuration that cannot be used; the text names the place and what to do."""


class ClusterRefused(ConfigError):
    """What a node of a cluster cannot start with, and waiting does not mend: a service manager must not try again."""


class ApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the API listens and whom it lets in."""

    listen: Annotated[str, _doc("HOST:PORT, or unix:PATH.")] = "127.0.0.1:8480"
    tls_cert: Annotated[str | None, _doc("PEM file of the server's certificate chain; turns TLS on.")] = None
    tls_key: Annotated[str | None, _doc("PEM file of its key.")] = None
    allow_remote: Annotated[bool, _doc("Listen off loopback without TLS. Tokens then travel in the clear.")] = False
    no_auth: Annotated[bool, _doc("Ask for no token. Every program of this machine may then use every connection.")] = (
        False
    )
    hosts: Annotated[list[str], _doc("Further Host names (with port, if not the default one) to answer to.")] = []
    access_log: Annotated[bool, _doc("Log each request, without its query.")] = False
    write_timeout: Annotated[
        Positive, _doc("A subscriber that does not read for so long is disconnected; it may resume.")
    ] = 10.0
    heartbeat: Annotated[Positive, _doc("An idle event stream carries a comment this often.")] = 15.0
    idempotency_age: Annotated[Positive, _doc("For so long an Idempotency-Key stands for its answer.")] = 86_400.0
    max_requests: Annotated[Count, _doc("HTTP connections open at once; one more is closed at once.")] = 4_000
    request_timeout: Annotated[Positive, _doc("A request's headers must have come within this time.")] = 10.0


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How events are kept."""

    store: Annotated[Literal["sqlite", "memory"], _doc("sqlite survives restarts; memory does not.")] = "sqlite"
    level: Annotated[
        Literal["process", "power"],
        _doc(
            "process: nothing is lost when a process dies; power: nor when the machine does. Slower on small batches."
        ),
    ] = "process"
    max_events: Annotated[Count, _doc("Older events are dropped above this number; what was written last stays.")] = (
        10_000_000
    )
    max_bytes: Annotated[
        Count,
        _doc(
            "Older events are dropped above this size. Answers kept for an Idempotency-Key count, too; they take a quarter of it "
            "at most, and the oldest go first."
        ),
    ] = 4 * 1024**3
    max_age: Annotated[Positive, _doc("Events older than this are dropped.")] = 7 * 86_400.0
    ring_bytes: Annotated[
        Count, _doc("The newest events are held in memory up to this size, for live subscribers.")
    ] = 32 * 1024**2


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one service takes on."""

    max_connections: Annotated[
        Count,
        _doc(
            "Connections that have not ended, of all workers. Code in workers is told of it with what was stored of its events: what it opens "
            "within those few milliseconds, and what it opens while the journal cannot be written, may come on top, at most 288 a worker (the ids that it holds)."
        ),
    ] = 20_000
    max_connections_per_worker: Annotated[Count, _doc("The same, of one worker.")] = MAX_CONNECTIONS
    max_pending_requests: Annotated[
        Count, _doc("Requests over one connection (`requests`) that wait for their reply.")
    ] = MAX_PENDING_REQUESTS
    max_subscribers: Annotated[Count, _doc("Event streams open at once.")] = 1_000
    max_body_bytes: Annotated[
        BodySize, _doc("Size of a request's body; of a line, for application/x-ndjson. Needs a restart.")
    ] = 16 * 1024**2
    max_workers: Annotated[Count, _doc("Workers at once.")] = 256
    max_hooks: Annotated[Count, _doc("Hooks at once.")] = 100


class WorkerConfig(WorkerBounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bounds of each worker process."""


class SupervisorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Deadlines of starting, watching and stopping workers."""

    fork_workers: Annotated[
        bool,
        _doc(
            "Start workers as copies of a process that has imported what they need; false: each from nothing (slower, larger)."
        ),
    ] = True
    start_timeout: Annotated[Positive, _doc("A process must have connected to the service within this time.")] = 10.0
    stop_timeout: Annotated[Positive, _doc("A worker told to end may take so long before it is signalled.")] = 5.0
    kill_timeout: Annotated[Positive, _doc("After each signal (SIGTERM, SIGKILL) so long is waited.")] = 1.5
    call_timeout: Annotated[Positive, _doc("A call over REST that has not run by then answers 504.")] = 600.0
    restart_budget: Annotated[Count, _doc("So many restarts in restart_window; beyond, the worker is Failed.")] = 5
    restart_window: Annotated[Positive, _doc("The window of restart_budget.")] = 60.0
    restart_delay: Annotated[Positive, _doc("Delay before the first restart; it doubles with each.")] = 0.1
    restart_delay_max: Annotated[Positive, _doc("No delay is longer.")] = 10.0
    probe_interval: Annotated[Positive, _doc("How often a worker's I/O loop is asked whether it lives.")] = 2.0
    watchdog_timeout: Annotated[
        Positive, _doc("A worker that has not answered for so long has its stacks dumped and is ended.")
    ] = 10.0


class RetentionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long records of closed connections are kept."""

    closed_connections: Annotated[Count, _doc("The last so many.")] = 1_000
    closed_age: Annotated[Positive, _doc("For so long.")] = 3_600.0


class EgressConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where connections may go (see SECURITY.md)."""

    allow: Annotated[list[str], _doc("Networks and host patterns. Empty: all that is not denied.")] = []
    deny: Annotated[list[str], _doc("Networks and host patterns. They beat allow.")] = []
    allow_insecure_tls: Annotated[bool, _doc("Let a request say tls.verify false.")] = False


class DialConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How connections are dialled, where they do not say it themselves."""

    proxy: Annotated[
        str | None, _doc("Name of one of [proxies]; without: direct. HTTP_PROXY and the like are not read.")
    ] = None
    bypass: Annotated[
        list[str],
        _doc(
            "Host patterns and networks (of addresses in URLs) that are dialled without it, as are loopback and localhost."
        ),
    ] = []
    hosts: Annotated[
        dict[str, list[str]], _doc("Host name → addresses that stand for it. In the environment: JSON.")
    ] = {}


class ReadinessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``/readyz`` tells beside whether requests can be served."""

    down_after: Annotated[
        float,
        msgspec.Meta(ge=0, le=31_536_000),
        _doc("`down` is how many kept connections have been without a socket for so many seconds; 0: it is not told."),
    ] = 0.0


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The service's own log, and how workers write theirs."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Lines below this are dropped.")] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], _doc("auto: key=value on a terminal, JSON otherwise; workers log to files.")
    ] = "auto"


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One named token; the token itself is nowhere: `mooring token --hash` prints what goes here."""

    hash: Annotated[str, _doc("sha256:<64 hex digits> of the token.")]
    scopes: Annotated[
        list[Scope],
        _doc("read (alone the default): GET; send: messages, requests, what waits; manage: everything else."),
    ] = msgspec.field(default_factory=lambda: ["read"])


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything."""

    api: ApiConfig = ApiConfig()
    journal: JournalConfig = JournalConfig()
    limits: LimitsConfig = LimitsConfig()
    worker: WorkerConfig = WorkerConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    retention: RetentionConfig = RetentionConfig()
    egress: EgressConfig = EgressConfig()
    dial: DialConfig = DialConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    redial: RedialLimits = RedialLimits()
    cluster: ClusterConfig = ClusterConfig()
    readiness: ReadinessConfig = ReadinessConfig()
    log: LogConfig = LogConfig()
    handlers: Annotated[dict[str, str], _doc("Public name → module:Class of a handler.")] = {}
    functions: Annotated[dict[str, str], _doc("Public name → module:function.")] = {}
    tokens: Annotated[dict[str, TokenConfig], _doc("Name → a further token.")] = {}
    proxies: Annotated[dict[str, ProxySettings], _doc("Name → a proxy.")] = {}
    recipes: Annotated[dict[str, str], _doc("Name → absolute path of a JSON file: what a preset is made of.")] = {}
    connections: Annotated[
        dict[str, dict[str, Any]],
        _doc(
            "Name → a declared connection: the keys of the create body, as it spells them (api/REFERENCE.md). It is opened at the start, kept "
            '(`reconnect` defaults to true, its `first` to `"retry"`), and persists. `proxy = false`: none.'
        ),
    ] = {}
    hooks: Annotated[dict[str, HookSettings], _doc("Name → a hook.")] = {}
    secrets: Annotated[
        dict[str, SecretSource],
        _doc(
            "Name → `file:/path` or `env:VARIABLE`: what `${secret:NAME}` stands for in what the configuration declares; or a table of "
            "these keys, whose secret serves what requests open, too, at its `hosts`."
        ),
    ] = {}

    @property
    def dial_settings(self) -> DialSettings:
        """What every dial is told."""
        return DialSettings(proxies=self.proxies, secrets=self.secrets, **msgspec.structs.asdict(self.dial))


TABLES: dict[str, type[msgspec.Struct]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Config)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
"""The tables that hold settings; the others hold names."""

NAMED: dict[str, type[msgspec.Struct]] = {
    "tokens": TokenConfig,
    "proxies": ProxySettings,
    "hooks": HookSettings,
    "secrets": BoundSecret,
}
"""Tables of names, each of which is a table of these keys (a secret: or a text)."""

RUNTIME_SETTINGS = frozenset(
    {
        "tokens",
        "egress",
        "limits",
        "dial",
        "proxies",
        "redial",
        "secrets",
        "recipes",
        "connections",
        "readiness",
        "delivery",
        "hooks",
    }
)
"""Tables that SIGHUP may change; the rest needs a restart."""
