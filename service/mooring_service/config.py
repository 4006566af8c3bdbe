"""The configuration: frozen Structs by owner, read once, passed to constructors.

Order: ``mooring.toml``, then ``MOORING_<TABLE>_<KEY>`` of the environment, then flags; a later one wins. An unknown key
is an error that names the nearest known one. Durations are seconds, sizes bytes. A setting is one row of its table's
Struct: what reads it, checks it and documents it follows from that.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from mooring.bounds import MAX_CONNECTIONS, Count, Positive, RedialLimits, WorkerBounds
from mooring.bounds import doc as _doc
from mooring.checks import is_name
from mooring.dial_options import DialSettings, ProxySettings, check_proxy
from mooring.link.channel import MAX_COMMAND_BYTES
from mooring.usercode.handlers import check_reference
from mooring.wire.egress import parse_entry
from mooring.wire.route import Routes
from mooring_service.hook_options import DeliveryConfig, HookSettings, hook_settings_faults

BodySize = Annotated[int, msgspec.Meta(ge=1, le=MAX_COMMAND_BYTES)]
Scope = Literal["read", "send", "manage"]


class ConfigError(Exception):
    """A configuration that cannot be used; the text names the place and what to do."""


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
    max_events: Annotated[Count, _doc("Older events are dropped above this number.")] = 10_000_000
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

    max_connections: Annotated[Count, _doc("Connections that have not ended, of all workers.")] = 20_000
    max_connections_per_worker: Annotated[Count, _doc("The same, of one worker.")] = MAX_CONNECTIONS
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


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The service's own log, and how workers write theirs."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Lines below this are dropped.")] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], _doc("auto: key=value on a terminal, JSON otherwise; workers log to files.")
    ] = "auto"


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One named token; the token itself is nowhere: `mooring token --hash` prints what goes here."""

    hash: Annotated[str, _doc("sha256:<64 hex digits> of the token.")]
    scopes: Annotated[list[Scope], _doc("read: GET; send: messages; manage: everything else.")] = msgspec.field(
        default_factory=lambda: ["read"]
    )


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
    log: LogConfig = LogConfig()
    handlers: Annotated[dict[str, str], _doc("Public name → module:Class of a handler.")] = {}
    functions: Annotated[dict[str, str], _doc("Public name → module:function.")] = {}
    tokens: Annotated[dict[str, TokenConfig], _doc("Name → a further token.")] = {}
    proxies: Annotated[dict[str, ProxySettings], _doc("Name → a proxy.")] = {}
    hooks: Annotated[dict[str, HookSettings], _doc("Name → a hook.")] = {}


TABLES: dict[str, type[msgspec.Struct]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Config)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
"""The tables that hold settings; the others hold names."""

NAMED: dict[str, type[msgspec.Struct]] = {"tokens": TokenConfig, "proxies": ProxySettings, "hooks": HookSettings}
"""Tables of names, each of which is a table of these keys."""

NOT_SETTINGS = frozenset({"MOORING_TOKEN", "MOORING_URL", "MOORING_STATE_DIR", "MOORING_CONFIG"})
"""Variables of the environment that begin with MOORING_ and are not settings: the command line's."""

_SERVICE_LINK = re.compile(
    r"MOORING_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)
"""What Kubernetes sets in each pod for a Service whose name begins with ``mooring``, and Docker for a link."""

RUNTIME_SETTINGS = frozenset({"tokens", "egress", "limits", "dial", "proxies", "redial", "delivery", "hooks"})
"""Tables that SIGHUP may change; the rest needs a restart."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a file (None: no file), the environment, and flags (``{"api": {"listen": …}}``).

    Raises:
        ConfigError: If a key is unknown or a value is not valid; it names the file or variable.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_file(path)
        _check_keys(tree, str(path))
        _convert(tree, str(path))
    for table, key, text, variable in _variables(environ):
        value = _parse_text(TABLES[table], key, text, variable)
        tree.setdefault(table, {})[key] = value
        _convert({table: {key: value}}, variable)
    for name, values in (overrides or {}).items():
        tree.setdefault(name, {}).update(values)
    _check_keys(tree, "the command line")
    return _check_values(_convert(tree, "the command line"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from None


def _check_keys(tree: dict[str, Any], where: str) -> None:
    known = [field.encode_name for field in msgspec.structs.fields(Config)]
    for name, value in tree.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown table [{name}]{_nearest(name, known)}")
        if not isinstance(value, dict):
            continue  # the conversion says so
        if name in TABLES:
            _check_table(TABLES[name], name, value, where)
        elif name in NAMED:
            for one, table in value.items():
                if isinstance(table, dict):
                    _check_table(NAMED[name], f"{name}.{one}", table, where)


def _check_table(struct: type[msgspec.Struct], place: str, table: dict[str, Any], where: str) -> None:
    keys = [field.encode_name for field in msgspec.structs.fields(struct)]
    for key in table:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {place}.{key}{_nearest(key, keys, place)}")


def _nearest(name: str, known: list[str], table: str = "") -> str:
    found = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if not found:
        return f"; known: {', '.join(known)}"
    return f"; did you mean {table + '.' if table else ''}{found[0]}?"


def _convert(tree: dict[str, Any], where: str) -> Config:
    for name, table in tree.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{where}: {name}.{key}: must be a finite number, not {value}")
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `$.")
        raise ConfigError(f"{where}: {place.rstrip('`') or 'the file'}: {text}") from None


_SETTINGS = {
    f"MOORING_{table}_{field.encode_name}".upper(): (table, field)
    for table, struct in TABLES.items()
    for field in msgspec.structs.fields(struct)
}
"""Variable of the environment → the setting that it is."""


def ignored_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that begin like a setting and are none: they belong to somebody else."""
    return sorted(
        variable
        for variable, text in environ.items()
        if variable.startswith("MOORING_")
        and variable not in NOT_SETTINGS
        and not variable.startswith("MOORING_TEST_")
        and variable not in _SETTINGS
        and not _meant_for_us(variable, text)
    )


def _meant_for_us(variable: str, text: str) -> bool:
    """Say whether an unknown variable is a setting spelled wrongly: it names one of our tables.

    A Service named ``mooring-api`` makes variables that do so too: they are known by their form.
    """
    if not variable.startswith(tuple(f"MOORING_{table.upper()}_" for table in TABLES)):
        return False
    return _SERVICE_LINK.match(variable) is None and not (variable.endswith("_PORT") and "://" in text)


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for variable, text in environ.items():
        if variable in _SETTINGS:
            table, field = _SETTINGS[variable]
            found.append((table, field.encode_name, text, variable))
        elif _meant_for_us(variable, text):
            raise ConfigError(f"unknown variable {variable}{_nearest(variable, list(_SETTINGS))}")
    return found


def _parse_text(table: type[msgspec.Struct], key: str, text: str, variable: str) -> Any:
    kind = next(field.type for field in msgspec.structs.fields(table) if field.encode_name == key)
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is list or get_origin(kind) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{variable}: must be true or false")
    if get_origin(kind) is dict:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{variable}: must be JSON: {exc}") from None
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{variable}: must be a number") from None
    return text


def _check_values(config: Config) -> Config:
    for table, names in (("handlers", config.handlers), ("functions", config.functions)):
        for name, reference in names.items():
            if not is_name(name):
                raise ConfigError(f"{table}.{name}: a public name is 1 to 63 letters, digits, '.', '_' or '-'")
            if not check_reference(reference):
                raise ConfigError(f"{table}.{name}: {reference!r} is not of the form module:attribute")
    egress, dial = config.egress, config.dial
    for place, entries in (
        ("egress.allow", egress.allow),
        ("egress.deny", egress.deny),
        ("dial.bypass", dial.bypass),
        ("delivery.allow", config.delivery.allow),
        ("delivery.deny", config.delivery.deny),
    ):
        for entry in entries:
            try:
                parse_entry(entry)
            except ValueError as exc:
                raise ConfigError(f"{place}: {exc}") from None
    _check_dial(config)
    for name, hook in config.hooks.items():
        for text in hook_settings_faults(name, hook, allow_plain=config.delivery.allow_plain):
            raise ConfigError(text)
    for wrong in config.redial.check():
        raise ConfigError(f"redial{wrong.pointer.replace('/', '.')}: {wrong.detail}")
    for name, token in config.tokens.items():
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", token.hash):
            raise ConfigError(f"tokens.{name}.hash: must be sha256: and 64 hex digits (mooring token --hash)")
    if (config.api.tls_cert is None) != (config.api.tls_key is None):
        raise ConfigError("api: tls_cert and tls_key go together")
    return config


def _check_dial(config: Config) -> None:
    for name, proxy in config.proxies.items():
        if not is_name(name):
            raise ConfigError(f"proxies.{name}: a proxy's name is 1 to 63 letters, digits, '.', '_' or '-'")
        for fault in check_proxy(proxy, f"proxies/{name}"):
            raise ConfigError(f"{fault.pointer.replace('/', '.')}: {fault.detail}")
        if proxy.tls is not None and not proxy.tls.verify and not config.egress.allow_insecure_tls:
            raise ConfigError(f"proxies.{name}.tls: verify false needs [egress] allow_insecure_tls")
    if config.dial.proxy is not None and config.dial.proxy not in config.proxies:
        known = _nearest(config.dial.proxy, list(config.proxies)) if config.proxies else ""
        raise ConfigError(f"dial.proxy: [proxies] has no {config.dial.proxy!r}{known}")
    try:
        Routes(DialSettings(proxies=config.proxies, **msgspec.structs.asdict(config.dial)))
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
