"""What a connection may be asked for, and the checks of it. Pure: no I/O, no clock.

`ConnectionRequest` is the create body (contract, section 4); `resolve` merges it with the attributes of a handler and
returns checked `ConnectionOptions`, or raises `InvalidRequest` with a pointer to each place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mooring.errors import Invalid, InvalidRequest
from mooring.parameters import check_params

DEFAULT_WORKER = "main"
DEFAULT_CONNECT_TIMEOUT_S = 10.0
DEFAULT_CLOSE_TIMEOUT_S = 5.0  # contract, section 4
DEFAULT_PING_INTERVAL_S = 20.0  # contract, section 4; below the 30 s at which common proxies drop idle connections
DEFAULT_PING_TIMEOUT_S = 20.0
DEFAULT_SEND_TIMEOUT_S = 10.0  # contract, section 4
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # as aiohttp's client
MAX_MESSAGE_BYTES_CEILING = 32 * 1024 * 1024  # a message, escaped as JSON, must fit one frame of the link
MAX_DURATION_S = 86_400.0
MAX_URL_CHARS = 8_000  # aiohttp refuses request lines over 8,190 bytes
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024  # all names and values together
MAX_REASON_BYTES = 123  # RFC 6455 section 5.5: 125 bytes of a control frame less 2 of the code

WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_FORBIDDEN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5, and every other control but TAB
_URL_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_FORBIDDEN_HEADERS = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})

DataType = Literal["text", "blob", "object", "auto"]
HeaderValue = str | list[str]


class TlsRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """TLS of one connection: paths of PEM files readable by the worker, and whether the server is verified."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True


class HandlerRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A public name of ``[handlers]`` and what its constructor gets: by keyword (object) or position (list)."""

    name: str
    params: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)


class ConnectionRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True):
    """The body of ``POST /v1/connections``. Durations in seconds, sizes in bytes. Only `url` is required."""

    url: Annotated[str, Meta(description="ws://host[:port]path[?query] or wss://…", examples=["ws://127.0.0.1:8481/"])]
    worker: str = DEFAULT_WORKER
    handler: HandlerRequest | None = None
    data_type: DataType | UnsetType = UNSET
    headers: dict[str, HeaderValue] | UnsetType = UNSET
    protocols: list[str] | UnsetType = UNSET
    connect_timeout: float | UnsetType = UNSET
    close_timeout: float | UnsetType = UNSET
    ping_interval: float | UnsetType = UNSET
    ping_timeout: float | UnsetType = UNSET
    max_message_size: int | UnsetType = UNSET
    compress: bool | UnsetType = UNSET
    send_timeout: float | UnsetType = UNSET
    tls: TlsRequest | UnsetType = UNSET


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked and complete: what a connection runs with."""

    url: str
    data_type: DataType = "text"
    headers: list[tuple[str, str]] = []
    protocols: list[str] = []
    connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S
    close_timeout_s: float = DEFAULT_CLOSE_TIMEOUT_S
    ping_interval_s: float = DEFAULT_PING_INTERVAL_S
    ping_timeout_s: float = DEFAULT_PING_TIMEOUT_S
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    compress: bool = False
    send_timeout_s: float = DEFAULT_SEND_TIMEOUT_S
    tls: TlsRequest = TlsRequest()


HANDLER_OPTIONS = (
    "data_type",
    "headers",
    "protocols",
    "connect_timeout",
    "close_timeout",
    "ping_interval",
    "ping_timeout",
    "max_message_size",
    "compress",
    "send_timeout",
    "tls",
)
"""Attributes of a handler that are create options, by their Python names."""


def check_worker_name(name: str, pointer: str = "/worker") -> list[Invalid]:
    """Return what is wrong with a worker's name: nothing, or one entry."""
    if isinstance(name, str) and WORKER_NAME.match(name):
        return []
    return [
        Invalid(
            pointer, "a worker's name is 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    ]


def check_url(url: str) -> list[Invalid]:
    """Return what is wrong with `url` (RFC 6455 section 3). The text itself is never changed."""

    def bad(detail: str) -> list[Invalid]:
        return [Invalid("/url", detail)]

    if len(url) > MAX_URL_CHARS:
        return bad(f"longer than {MAX_URL_CHARS} characters")
    if _URL_FORBIDDEN.search(url):
        return bad("white space, control characters and '\\' must be percent-encoded")
    try:
        url.encode("utf-8")
    except UnicodeEncodeError:
        return bad("not valid Unicode (a lone surrogate)")
    if "#" in url:
        return bad("a fragment ('#…') is not allowed in a WebSocket URL (RFC 6455 section 3)")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError as exc:
        return bad(f"cannot be parsed: {_without_url(exc)}")
    if parts.scheme not in ("ws", "wss"):
        return bad("the scheme must be ws:// or wss://")
    if not url.lower().startswith(f"{parts.scheme}://") or not host:
        return bad("a host is required: ws://host[:port]/path")
    if "@" in parts.netloc:
        return bad("userinfo is not allowed: put credentials in headers")
    if port == 0 or parts.netloc.endswith(":"):
        return bad("the port must be 1 to 65535")
    if len(host) > 253 or "%" in parts.netloc.partition("]")[0].replace("%25", ""):
        return bad("the host is not valid")
    return []


def _without_url(exc: ValueError) -> str:
    # urllib quotes the offending part; a query value must not travel in an error text.
    return re.sub(r"'[^']*'", "…", str(exc))


def check_close(code: int | None, reason: str | None) -> list[Invalid]:
    """Return what is wrong with the code and reason of a terminate (contract, section 2)."""
    wrong: list[Invalid] = []
    if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
        wrong.append(Invalid("query:code", "must be an integer: 1000, or 3000 to 4999"))
    elif code is not None and code != 1000 and not 3000 <= code <= 4999:
        wrong.append(Invalid("query:code", "must be 1000, or 3000 to 4999"))
    if reason is not None:
        if not isinstance(reason, str):
            wrong.append(Invalid("query:reason", "must be text"))
            return wrong
        try:
            length = len(reason.encode("utf-8"))
        except UnicodeEncodeError:
            wrong.append(Invalid("query:reason", "is not valid Unicode (a lone surrogate)"))
        else:
            if length > MAX_REASON_BYTES:
                wrong.append(
                    Invalid(
                        "query:reason", f"is {length} bytes of UTF-8; a close frame has room for {MAX_REASON_BYTES}"
                    )
                )
    return wrong


def check_headers(headers: Mapping[str, HeaderValue], pointer: str = "/headers") -> list[Invalid]:
    """Return what is wrong with `headers`. No value is ever quoted: values are secrets."""
    wrong: list[Invalid] = []
    count = 0
    size = 0
    for name, value in headers.items():
        place = f"{pointer}/{escape_pointer(name)[:100]}"
        lower = name.lower()
        if not _TOKEN.match(name):
            wrong.append(Invalid(place, "not a header name (RFC 9110 section 5.1)"))
            continue
        if lower in _FORBIDDEN_HEADERS or lower.startswith("sec-websocket-"):
            hint = "; subprotocols go in protocols" if lower == "sec-websocket-protocol" else ""
            wrong.append(Invalid(place, f"the handshake owns this header{hint}"))
            continue
        values = [value] if isinstance(value, str) else value
        if not values:
            wrong.append(Invalid(place, "an empty list names no value"))
        if lower == "cookie" and len(values) > 1:
            wrong.append(Invalid(place, "Cookie is one string: 'a=1; b=2'"))
        for item in values:
            count += 1
            size += len(name) + len(item)
            if _FORBIDDEN_VALUE.search(item):
                wrong.append(Invalid(place, "the value has a line break, NUL or other control character"))
            elif not _encodable(item):
                wrong.append(Invalid(place, "the value is not valid Unicode (a lone surrogate)"))
        if len(wrong) >= 20:
            break
    if count > MAX_HEADERS:
        wrong = [*wrong[:20], Invalid(pointer, f"more than {MAX_HEADERS} header lines")]
    if size > MAX_HEADER_BYTES:
        wrong = [*wrong[:20], Invalid(pointer, f"more than {MAX_HEADER_BYTES} bytes together")]
    return wrong


def check_protocols(protocols: Iterable[str], pointer: str = "/protocols") -> list[Invalid]:
    """Return what is wrong with the subprotocols: tokens, each once (RFC 6455 section 4.1)."""
    wrong: list[Invalid] = []
    seen: set[str] = set()
    for index, protocol in enumerate(protocols):
        if index >= 50:
            wrong.append(Invalid(pointer, "more than 50 subprotocols"))
            break
        if not _TOKEN.match(protocol):
            wrong.append(Invalid(f"{pointer}/{index}", "not a subprotocol name (a token of RFC 9110 section 5.6.2)"))
        elif protocol in seen:
            wrong.append(Invalid(f"{pointer}/{index}", "the same subprotocol twice"))
        seen.add(protocol)
    return wrong


def check_request(request: ConnectionRequest) -> list[Invalid]:
    """Return everything that is wrong with a create request by itself (its handler is not asked)."""
    wrong = check_url(request.url) + check_worker_name(request.worker)
    if request.headers is not UNSET:
        wrong += check_headers(request.headers)
    if request.protocols is not UNSET:
        wrong += check_protocols(request.protocols)
    if request.handler is not None:
        wrong += check_params(request.handler.params, "/handler/params")
    for name, lowest, zero_ok in (
        ("connect_timeout", 0.001, False),
        ("close_timeout", 0.001, False),
        ("send_timeout", 0.001, False),
        ("ping_interval", 0.01, True),
        ("ping_timeout", 0.01, False),
    ):
        value = getattr(request, name)
        if value is UNSET or (zero_ok and value == 0):
            continue
        if not lowest <= value <= MAX_DURATION_S:  # also refuses NaN
            zero = "0 (never), or " if zero_ok else ""
            wrong.append(Invalid(f"/{camel(name)}", f"must be {zero}{lowest} to {MAX_DURATION_S:.0f} seconds"))
    size = request.max_message_size
    if size is not UNSET and not 1 <= size <= MAX_MESSAGE_BYTES_CEILING:
        wrong.append(Invalid("/maxMessageSize", f"must be 1 to {MAX_MESSAGE_BYTES_CEILING} bytes"))
    tls = request.tls
    if tls is not UNSET:
        if request.url.lower().startswith("ws://"):
            wrong.append(Invalid("/tls", "tls is for wss:// URLs"))
        if tls.key_file is not None and tls.cert_file is None:
            wrong.append(Invalid("/tls/keyFile", "a key needs its certFile"))
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(tls, name)
            if path is not None and ("\0" in path or not path.startswith("/")):
                wrong.append(Invalid(f"/tls/{camel(name)}", "must be an absolute path"))
    return wrong


def from_handler(handler: object, url: str, worker: str = DEFAULT_WORKER) -> ConnectionRequest:
    """Return the request that the attributes of `handler` make. A wrong type is an `InvalidRequest`."""
    found: dict[str, Any] = {"url": url, "worker": worker}
    for name in HANDLER_OPTIONS:
        value = getattr(handler, name, None)
        if isinstance(value, msgspec.Struct):
            value = msgspec.to_builtins(value)
        if name == "tls" and isinstance(value, dict):
            value = {camel(str(key)): item for key, item in value.items()}
        if value is not None:
            found[camel(name)] = value
    try:
        return msgspec.convert(found, ConnectionRequest)
    except msgspec.ValidationError as exc:
        what, _, place = str(exc).partition(" - at `$.")
        raise InvalidRequest([_of_handler(handler, place.rstrip("`"), what)]) from None


def _of_handler(handler: object, place: str, detail: str) -> Invalid:
    """Return what is wrong with an attribute of `handler`; `place` names it as the create body does."""
    option = re.split(r"\W", place)[0]
    place = place.replace(option, _OPTION_NAMES.get(option, option), 1)
    return Invalid("/handler", f"{type(handler).__name__}.{place}: {detail}")


def _blame_handler(error: Invalid, asked: ConnectionRequest, handler: object | None) -> Invalid:
    """Point at the handler's attribute where `asked` did not say what is wrong."""
    place = error.pointer[1:]
    name = _OPTION_NAMES.get(place.partition("/")[0])
    if handler is None or name is None or getattr(asked, name) is not UNSET:
        return error
    return _of_handler(handler, place, error.detail)


def resolve(request: ConnectionRequest, handler: object | None = None) -> ConnectionOptions:
    """Merge `request` with the attributes of `handler` and check the result.

    What the request says wins: `data_type` replaces, `headers` are merged by (case-insensitive) name.

    Raises:
        InvalidRequest: If anything is not valid.
    """
    asked = request
    if handler is not None:
        base = from_handler(handler, request.url, request.worker)
        merged = {
            name: value
            for name in HANDLER_OPTIONS
            if (value := getattr(request, name)) is not UNSET or (value := getattr(base, name)) is not UNSET
        }
        if request.headers is not UNSET and base.headers is not UNSET:
            own = {name.lower() for name in request.headers}
            merged["headers"] = {n: v for n, v in base.headers.items() if n.lower() not in own} | request.headers
        request = msgspec.structs.replace(request, **merged)
    wrong = check_request(request)
    if wrong:
        raise InvalidRequest([_blame_handler(error, asked, handler) for error in wrong])
    defaults = ConnectionOptions(url=request.url)

    def pick(value: Any, default: Any) -> Any:
        return default if value is UNSET else value

    headers: list[tuple[str, str]] = []
    for name, value in pick(request.headers, {}).items():
        headers.extend((name, item) for item in ([value] if isinstance(value, str) else value))
    return ConnectionOptions(
        url=request.url,
        data_type=pick(request.data_type, defaults.data_type),
        headers=headers,
        protocols=pick(request.protocols, defaults.protocols),
        connect_timeout_s=pick(request.connect_timeout, defaults.connect_timeout_s),
        close_timeout_s=pick(request.close_timeout, defaults.close_timeout_s),
        ping_interval_s=pick(request.ping_interval, defaults.ping_interval_s),
        ping_timeout_s=pick(request.ping_timeout, defaults.ping_timeout_s),
        max_message_bytes=pick(request.max_message_size, defaults.max_message_bytes),
        compress=pick(request.compress, defaults.compress),
        send_timeout_s=pick(request.send_timeout, defaults.send_timeout_s),
        tls=pick(request.tls, defaults.tls),
    )


def camel(name: str) -> str:
    """Return a ``snake_case`` name in ``camelCase``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_OPTION_NAMES = {camel(name): name for name in HANDLER_OPTIONS}


def escape_pointer(part: str) -> str:
    """Return `part` as one reference token of a JSON pointer (RFC 6901 section 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
