"""What a connection may be asked for: one row of `ConnectionRequest` per create option. Pure: no I/O, no clock.

A row says everything about its option (`Option`); `OPTIONS` is the table that the rows make. From it follow what a
handler's attributes may say, the checks, `resolve`, the API's description, the tables of the documentation, the options
of `mooring open`, and which worker may be asked for it. Beside its row an option has one line in `ConnectionOptions`,
which is what a connection runs with: complete, and with units in the names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, UnsetType

from mooring import staying
from mooring.checks import (
    HeaderValue,
    check_connection_name,
    check_headers,
    check_protocols,
    check_url,
    check_worker_name,
)
from mooring.dial_options import (
    Family,
    ProxyRequest,
    TlsRequest,
    check_addresses,
    check_local_address,
    check_proxy,
    check_tls,
    family_faults,
)
from mooring.errors import Invalid
from mooring.kept_options import ReconnectRequest, RequestsRequest, WhenDown
from mooring.parameters import check_params

DEFAULT_WORKER = "main"
MAX_DURATION_S = 86_400.0
MAX_MESSAGE_BYTES_CEILING = 32 * 1024 * 1024  # a message, escaped as JSON, must fit one frame of the link

DataType = Literal["text", "blob", "object", "auto"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of one create option.

    Attributes:
        name: As a field and as an attribute of a handler; `key` is its name in JSON.
        kind: The type of its value, with None where that is something to say.
        default: What stands for it when nobody says it, as JSON has it; `NODEFAULT`: it is required.
        doc: Its line in the documentation; `why`: the reason for the default.
        low: The bounds of a number, both included.
        zero: What 0 means, where it stands beside the bounds.
        unit: Of a number: ``"s"`` or ``"bytes"``.
        becomes: The field of `ConnectionOptions` that it fills.
        by_handler: Whether an attribute of a handler may say it.
        check: Given the value and its pointer, returns what is wrong with it.
        since: The version of the link that brought it: an older worker cannot be asked for it.
        since_values: The same, of values that came later than the option.
    """

    name: str = ""
    kind: Any = None
    default: Any = NODEFAULT
    doc: str
    why: str = ""
    low: float | None = None
    high: float = 0
    zero: str = ""
    unit: Literal["", "s", "bytes"] = ""
    becomes: str = ""
    by_handler: bool = True
    check: Callable[[Any, str], list[Invalid]] | None = None
    since: int = 1
    since_values: dict[str, int] = {}

    @property
    def key(self) -> str:
        """Its name in JSON."""
        return camel(self.name)

    @property
    def bounds(self) -> str:
        """What a number may be, in words."""
        unit = {"s": " seconds", "bytes": " bytes"}.get(self.unit, "")
        return f"{f'0 ({self.zero}), or ' if self.zero else ''}{self.low:g} to {self.high:.0f}{unit}"

    def wrong(self, value: Any) -> list[Invalid]:
        """Return what is wrong with `value`: nothing, when it is right."""
        pointer = f"/{self.key}"
        if self.low is not None and not (self.zero and value == 0) and not self.low <= value <= self.high:  # or NaN
            return [Invalid(pointer, f"must be {self.bounds}")]
        return [] if self.check is None else self.check(value, pointer)


def _option(doc: str, default: Any = NODEFAULT, *, examples: list[Any] | None = None, **more: Any) -> Meta:
    """Return what stands in a row: the option, and what the API's description says of it."""
    option = Option(default=default, doc=doc, **more)
    schema: dict[str, Any] = {} if default is NODEFAULT else {"default": default}
    if option.low is not None:
        schema |= {"minimum": 0 if option.zero else option.low, "maximum": option.high}
    notes = [f"0: {option.zero}"] if option.zero else []
    notes += {"s": ["seconds"], "bytes": ["bytes"]}.get(option.unit, [])
    text = doc[0].upper() + doc[1:]
    description = f"{text} ({'; '.join(notes)})." if notes else f"{text}."
    return Meta(description=description, examples=examples, extra_json_schema=schema, extra={"option": option})


def _check_handler(handler: HandlerRequest, pointer: str) -> list[Invalid]:
    return check_params(handler.params, f"{pointer}/params")


class HandlerRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A public name of ``[handlers]`` and what its constructor gets: by keyword (object) or position (list)."""

    name: str
    params: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)


class ConnectionRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True):
    """The body of ``POST /v1/connections``: only `url` is required."""

    # The link has its own, lenient form of it: `messages.LinkRequest`.
    url: Annotated[
        str,
        _option(
            "`ws://host[:port]path[?query]` or `wss://…`",
            check=check_url,
            by_handler=False,
            examples=["ws://127.0.0.1:8481/"],
        ),
    ]
    name: Annotated[
        str | UnsetType,
        _option(
            "a word for it, unique among those that have not ended; it stands wherever an id may",
            check=check_connection_name,
            by_handler=False,
            since=6,
        ),
    ] = UNSET
    worker: Annotated[
        str,
        _option(
            "the worker that holds it, made by first use", DEFAULT_WORKER, check=check_worker_name, by_handler=False
        ),
    ] = DEFAULT_WORKER
    handler: Annotated[
        HandlerRequest | None,
        _option("a public name of `[handlers]`, and `params` for it", check=_check_handler, by_handler=False),
    ] = None
    data_type: Annotated[
        DataType | UnsetType,
        _option(
            "what received messages become, under `auto` what each is; what cannot is an error, close code 1007",
            "text",
            since_values={"auto": 2},
        ),
    ] = UNSET
    headers: Annotated[
        dict[str, HeaderValue] | UnsetType,
        _option("name → value, or list of values; `Cookie` is one string", {}, check=check_headers),
    ] = UNSET
    protocols: Annotated[list[str] | UnsetType, _option("subprotocols offered", [], check=check_protocols)] = UNSET
    connect_timeout: Annotated[
        float | UnsetType, _option("for the whole handshake", 10.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    close_timeout: Annotated[
        float | UnsetType, _option("for the answer to our close frame", 5.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    ping_interval: Annotated[
        float | UnsetType,
        _option(
            "a ping goes out this long after the last byte that came",
            20.0,
            why="common proxies drop what is idle for 30 s",
            unit="s",
            low=0.01,
            high=MAX_DURATION_S,
            zero="never",
        ),
    ] = UNSET
    ping_timeout: Annotated[
        float | UnsetType,
        _option(
            "without a byte for so long after a ping, the peer is gone: a dead one after both together, at the latest",
            20.0,
            unit="s",
            low=0.01,
            high=MAX_DURATION_S,
        ),
    ] = UNSET
    max_message_size: Annotated[
        int | UnsetType,
        _option(
            "of a received message, counted after inflating",
            4 * 1024 * 1024,
            why="as aiohttp's client",
            unit="bytes",
            low=1,
            high=MAX_MESSAGE_BYTES_CEILING,
            becomes="max_message_bytes",
        ),
    ] = UNSET
    compress: Annotated[bool | UnsetType, _option("offer permessage-deflate", False)] = UNSET
    send_timeout: Annotated[
        float | UnsetType, _option("for a peer that does not read", 10.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    tls: Annotated[
        TlsRequest | UnsetType,
        _option(
            "`caFile`, `certFile`, `keyFile`: absolute paths; `verify` false only where the configuration allows it",
            {},
            check=check_tls,
        ),
    ] = UNSET
    proxy: Annotated[
        str | ProxyRequest | UnsetType | None,
        _option(
            "a name of `[proxies]`, or `{url, username, password, resolve, tls}`; `null`: none; absent: as `[dial]` says",
            check=check_proxy,
            since=4,
        ),
    ] = UNSET
    family: Annotated[Family | UnsetType, _option("of the addresses that are dialled", "any", since=4)] = UNSET
    addresses: Annotated[
        list[str] | UnsetType,
        _option("dialled instead of looking the host of `url` up", [], check=check_addresses, since=4),
    ] = UNSET
    local_address: Annotated[
        str | UnsetType,
        _option("the address of this machine that is dialled from", check=check_local_address, since=4),
    ] = UNSET
    reconnect: Annotated[
        bool | ReconnectRequest | UnsetType,
        _option("stay: true, or what differs from the defaults", False, check=staying.check_option, since=4),
    ] = UNSET
    when_down: Annotated[
        WhenDown | UnsetType,
        _option(
            "what is sent while a kept connection is down fails, or waits in a queue",
            "fail",
            why="an order that is minutes old does harm",
            since=6,
        ),
    ] = UNSET
    queue_ttl: Annotated[
        float | UnsetType,
        _option(
            "so long a message may wait; what was not sent by then comes back in `onUnsent`",
            60.0,
            unit="s",
            low=0.1,
            high=MAX_DURATION_S,
            since=6,
        ),
    ] = UNSET
    requests: Annotated[
        str | RequestsRequest | UnsetType,
        _option(
            "where requests and their replies carry their id: the name of a preset, or `{id, reply, when, error, idType, hide, oneAtATime}`",
            since=6,
        ),
    ] = UNSET


def camel(name: str) -> str:
    """Return a ``snake_case`` name in ``camelCase``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _kind(declared: Any) -> Any:
    """Return the type of what may be said: `declared` without what stands for nothing being said."""
    if get_origin(declared) not in (Union, UnionType):
        return declared
    kinds = get_args(declared)
    nothing = UnsetType if UnsetType in kinds else type(None)
    return reduce(or_, [one for one in kinds if one is not nothing])


def _table(kind: type[msgspec.Struct]) -> dict[str, Option]:
    found = {}
    for field in msgspec.structs.fields(kind):
        declared, meta = get_args(field.type)
        option: Option = meta.extra["option"]
        found[field.name] = msgspec.structs.replace(
            option,
            name=field.name,
            kind=_kind(declared),
            becomes=option.becomes or (f"{field.name}_s" if option.unit == "s" else field.name),
        )
    return found


OPTIONS = _table(ConnectionRequest)
"""Every create option, by its Python name, in the order of the documentation."""

HANDLER_OPTIONS = tuple(option.name for option in OPTIONS.values() if option.by_handler)
"""Attributes of a handler that are create options, by their Python names."""


def _default(name: str) -> Any:
    return OPTIONS[name].default


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked and complete: what a connection runs with. Defaults are those of `OPTIONS`."""

    url: str
    data_type: DataType = _default("data_type")
    headers: list[tuple[str, str]] = []
    protocols: list[str] = []
    connect_timeout_s: float = _default("connect_timeout")
    close_timeout_s: float = _default("close_timeout")
    ping_interval_s: float = _default("ping_interval")
    ping_timeout_s: float = _default("ping_timeout")
    max_message_bytes: int = _default("max_message_size")
    compress: bool = _default("compress")
    send_timeout_s: float = _default("send_timeout")
    tls: TlsRequest = TlsRequest()
    proxy: str | ProxyRequest | UnsetType | None = UNSET
    family: Family = _default("family")
    addresses: list[str] = []
    local_address: str | None = None
    reconnect: staying.Reconnect | None = None
    when_down: WhenDown = _default("when_down")
    queue_ttl_s: float = _default("queue_ttl")
    requests: str | RequestsRequest | None = None


def check_request(request: ConnectionRequest) -> list[Invalid]:
    """Return everything that is wrong with a create request by itself (its handler is not asked)."""
    wrong: list[Invalid] = []
    for option in OPTIONS.values():
        value = getattr(request, option.name)
        if value is not UNSET and value is not None:
            wrong += option.wrong(value)
    if request.tls is not UNSET and request.url.lower().startswith("ws://"):
        wrong.append(Invalid("/tls", "tls is for wss:// URLs"))
    if request.reconnect is UNSET or request.reconnect is False:
        given = {"/whenDown": request.when_down == "queue", "/queueTtl": request.queue_ttl is not UNSET}
        wrong += [Invalid(pointer, "needs reconnect") for pointer, is_given in given.items() if is_given]
    local_address = UNSET if request.proxy else request.local_address
    return wrong or family_faults(request.family, request.addresses, local_address)


def too_new(request: ConnectionRequest, version: int) -> list[str]:
    """Return what of `request` a worker which speaks `version` of the link does not know, by keys."""
    found = []
    for option in OPTIONS.values():
        value = getattr(request, option.name)
        if value is UNSET or value is None:
            continue
        if option.since > version:
            found.append(option.key)
        elif isinstance(value, str) and option.since_values.get(value, 1) > version:
            found.append(f"{option.key} {value!r}")
    return found


def effective(request: ConnectionRequest) -> ConnectionOptions:
    """Return what `request` asks for, with the defaults filled in. It is not checked, and no handler is asked."""
    said = {
        option.becomes: value
        for option in OPTIONS.values()
        if option.by_handler and (value := getattr(request, option.name)) is not UNSET
    }
    if request.headers is not UNSET:
        said["headers"] = [
            (name, item)
            for name, value in request.headers.items()
            for item in ([value] if isinstance(value, str) else value)
        ]
    if request.reconnect is not UNSET:
        said["reconnect"] = staying.resolve(request.reconnect)
    return ConnectionOptions(url=request.url, **said)
