"""What a connection may be asked for: one row of `ConnectionRequest` per create option. Pure: no I/O, no clock.

A row says everything about its option (`Option`); `OPTIONS` is the table that the rows make. From it follow what a
handler's attributes may say, the checks, `resolve`, the API's description, the tables of the documentation, the options
of `mooring open`, and which worker may be asked for it. Beside its row an option has one line in `ConnectionOptions`,
which is what a connection runs with: complete, and with units in the names.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

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
from mooring.kept_options import KeepAliveRequest, RecipeRequest, ReconnectRequest, RequestsRequest, WhenDown
from mooring.option_rows import described, table_of
from mooring.parameters import check_params
from mooring.persisting import persist_faults

DEFAULT_WORKER = "main"
MAX_DURATION_S = 86_400.0
MAX_MESSAGE_BYTES_CEILING = 32 * 1024 * 1024  # a message, escaped as JSON, must fit one frame of the link

DataType = Literal["text", "blob", "object", "auto"]
WhenSilent = Literal["reconnect", "report"]


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
        described(
            "`ws://host[:port]path[?query]` or `wss://…`; with a recipe, `${name}` in it is filled in",
            by_handler=False,
            examples=["ws://127.0.0.1:8481/"],
        ),
    ]
    name: Annotated[
        str | UnsetType,
        described(
            "a word for it, unique among those that have not ended; it stands wherever an id may",
            check=check_connection_name,
            by_handler=False,
            since=6,
        ),
    ] = UNSET
    worker: Annotated[
        str,
        described(
            "the worker that holds it, made by first use", DEFAULT_WORKER, check=check_worker_name, by_handler=False
        ),
    ] = DEFAULT_WORKER
    node: Annotated[
        str | UnsetType,
        described("in a cluster: the node that opens it; without `worker` that node's default one", by_handler=False),
    ] = UNSET
    handler: Annotated[
        HandlerRequest | None,
        described("a public name of `[handlers]`, and `params` for it", check=_check_handler, by_handler=False),
    ] = None
    data_type: Annotated[
        DataType | UnsetType,
        described(
            "what received messages become, under `auto` what each is; what cannot is an error, close code 1007",
            "text",
            since_values={"auto": 2},
        ),
    ] = UNSET
    headers: Annotated[
        dict[str, HeaderValue] | UnsetType,
        described("name → value, or list of values; `Cookie` is one string", {}, check=check_headers),
    ] = UNSET
    protocols: Annotated[list[str] | UnsetType, described("subprotocols offered", [], check=check_protocols)] = UNSET
    connect_timeout: Annotated[
        float | UnsetType, described("for the whole handshake", 10.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    close_timeout: Annotated[
        float | UnsetType, described("for the answer to our close frame", 5.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    ping_interval: Annotated[
        float | UnsetType,
        described(
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
        described(
            "without a byte for so long after a ping, the peer is gone: a dead one after both together, at the latest",
            20.0,
            unit="s",
            low=0.01,
            high=MAX_DURATION_S,
        ),
    ] = UNSET
    max_message_size: Annotated[
        int | UnsetType,
        described(
            "of a received message, counted after inflating",
            4 * 1024 * 1024,
            why="as aiohttp's client",
            unit="bytes",
            low=1,
            high=MAX_MESSAGE_BYTES_CEILING,
            becomes="max_message_bytes",
        ),
    ] = UNSET
    compress: Annotated[bool | UnsetType, described("offer permessage-deflate", False)] = UNSET
    send_timeout: Annotated[
        float | UnsetType, described("for a peer that does not read", 10.0, unit="s", low=0.001, high=MAX_DURATION_S)
    ] = UNSET
    tls: Annotated[
        TlsRequest | UnsetType,
        described(
            "`caFile`, `certFile`, `keyFile`: absolute paths; `verify` false only where the configuration allows it",
            {},
            check=check_tls,
        ),
    ] = UNSET
    proxy: Annotated[
        str | ProxyRequest | UnsetType | None,
        described(
            "a name of `[proxies]`, or `{url, username, password, resolve, tls}`; `null`: none; absent: as `[dial]` says",
            check=check_proxy,
            since=4,
        ),
    ] = UNSET
    family: Annotated[Family | UnsetType, described("of the addresses that are dialled", "any", since=4)] = UNSET
    addresses: Annotated[
        list[str] | UnsetType,
        described("dialled instead of looking the host of `url` up", [], check=check_addresses, since=4),
    ] = UNSET
    local_address: Annotated[
        str | UnsetType,
        described("the address of this machine that is dialled from", check=check_local_address, since=4),
    ] = UNSET
    reconnect: Annotated[
        bool | ReconnectRequest | UnsetType,
        described("stay: true, or what differs from the defaults", False, check=staying.check_option, since=4),
    ] = UNSET
    keep_alive: Annotated[
        KeepAliveRequest | UnsetType,
        described("the application's own heartbeat: `{send, expect, interval, timeout, hide, within, …}`", since=6),
    ] = UNSET
    data_timeout: Annotated[
        float | UnsetType,
        described(
            "without a message for so long, whatever pings say, it is silent",
            0.0,
            unit="s",
            low=0.1,
            high=MAX_DURATION_S,
            zero="never",
            since=6,
        ),
    ] = UNSET
    when_silent: Annotated[
        WhenSilent | UnsetType,
        described(
            "`reconnect`: a silent socket ends; `report`: `onSilence` tells it, once a silence", "reconnect", since=6
        ),
    ] = UNSET
    recipe: Annotated[
        str | RecipeRequest | UnsetType,
        described(
            "what is sent and awaited before it counts as open, and what is answered by itself: inline, a name, or `{preset, values}`",
            since=6,
        ),
    ] = UNSET
    when_down: Annotated[
        WhenDown | UnsetType,
        described(
            "what is sent while a kept connection is down fails, or waits in a queue",
            "fail",
            why="an order that is minutes old does harm",
            since=6,
        ),
    ] = UNSET
    queue_ttl: Annotated[
        float | UnsetType,
        described(
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
        described(
            "where requests and their replies carry their id: the name of a preset, or `{id, reply, when, error, idType, hide, oneAtATime}`",
            since=6,
        ),
    ] = UNSET


OPTIONS = table_of(ConnectionRequest)
"""Every create option, by its Python name, in the order of the documentation."""

_said = attrgetter(*OPTIONS)  # one step for all of them: each create looks at all, several times

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
    keep_alive: KeepAliveRequest | None = None
    data_timeout_s: float = _default("data_timeout")
    when_silent: WhenSilent = _default("when_silent")
    recipe: str | RecipeRequest | None = None
    recipe_shown: Any = None
    """What the record says of it, where that is not made of `recipe`: its name, or the preset and its values."""
    handler_renews: bool = False
    """The handler has a ``renew``, which counts as a recipe."""

    @property
    def converses(self) -> bool:
        """Whether messages, or attempts, mean something to mooring itself."""
        return self.recipe is not None or self.keep_alive is not None or self.data_timeout_s > 0 or self.handler_renews

    when_down: WhenDown = _default("when_down")
    queue_ttl_s: float = _default("queue_ttl")
    requests: str | RequestsRequest | None = None


def check_request(request: ConnectionRequest, *, fills: bool = False) -> list[Invalid]:
    """Return everything that is wrong with a create request by itself (its handler is not asked).

    Args:
        fills: Something may fill in the URL, which is checked then by whoever knows what; a recipe always does.
    """
    wrong: list[Invalid] = []
    if request.recipe is UNSET and not (fills and "${" in request.url):
        wrong += check_url(request.url)
    for option, value in zip(OPTIONS.values(), _said(request), strict=True):
        if value is not UNSET and value is not None:
            wrong += option.wrong(value)
    if request.tls is not UNSET and request.url.lower().startswith("ws://"):
        wrong.append(Invalid("/tls", "tls is for wss:// URLs"))
    if isinstance(request.reconnect, ReconnectRequest) and request.reconnect.persist is True:
        wrong += persist_faults(request.headers or {}, request.proxy)
    local_address = UNSET if request.proxy else request.local_address
    return wrong or family_faults(request.family, request.addresses, local_address)


def too_new(request: ConnectionRequest, version: int) -> list[str]:
    """Return what of `request` a worker which speaks `version` of the link does not know, by keys."""
    found = []
    for option, value in zip(OPTIONS.values(), _said(request), strict=True):
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
        for option, value in zip(OPTIONS.values(), _said(request), strict=True)
        if value is not UNSET and option.by_handler
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
