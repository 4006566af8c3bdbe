"""What is right and wrong about the values that requests bring: names, URLs, headers, close codes. Pure: no I/O, no clock.

Each check returns what is wrong as `Invalid` entries: none, when it is right. Which option has which check is in
`options.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from mooring.errors import Invalid

MAX_URL_CHARS = 8_000  # aiohttp refuses request lines over 8,190 bytes
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024  # all names and values together
REPLY_TIMEOUT_S, MAX_TIMEOUT_S = 10.0, 600.0  # of a request over a connection
MAX_DELAY_S = 86_400.0  # of an ordered reconnect
MAX_REASON_BYTES = 123  # RFC 6455 section 5.5: 125 bytes of a control frame less 2 of the code

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""What a worker's name, and a public name of the configuration, looks like, whole."""

CONNECTION_NAME_PATTERN = "[A-Za-z][A-Za-z0-9._-]{0,62}"
"""What a connection's name looks like, whole: it begins with a letter, so that it is never taken for an id."""

_NAME = re.compile(rf"{NAME_PATTERN}\Z")
_CONNECTION_NAME = re.compile(rf"{CONNECTION_NAME_PATTERN}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_FORBIDDEN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5, and every other control but TAB
_URL_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_PLAIN_URL = re.compile(  # what nearly all look like; others are looked at more closely
    r"wss?://[A-Za-z0-9.-]{1,253}(:([1-9][0-9]{0,3}|[1-5][0-9]{4}))?([/?][A-Za-z0-9/?=&%:@!$'()*+,;._~-]*)?\Z"
)
_FORBIDDEN_HEADERS = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})

HeaderValue = str | list[str]


def is_name(text: str) -> bool:
    """Say whether `text` may be a worker's name, or a public name of the configuration."""
    return isinstance(text, str) and _NAME.match(text) is not None


def check_worker_name(name: str, pointer: str = "/worker") -> list[Invalid]:
    """Return what is wrong with a worker's name: nothing, or one entry."""
    if is_name(name):
        return []
    return [
        Invalid(
            pointer, "a worker's name is 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    ]


def is_connection_name(text: str) -> bool:
    """Say whether `text` may be the name of a connection."""
    return _CONNECTION_NAME.match(text) is not None


def check_connection_name(name: str, pointer: str = "/name") -> list[Invalid]:
    """Return what is wrong with a connection's name: nothing, or one entry."""
    if is_connection_name(name):
        return []
    detail = "a connection's name is 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter"
    return [Invalid(pointer, detail)]


def check_url(url: str, pointer: str = "/url") -> list[Invalid]:
    """Return what is wrong with `url` (RFC 6455 section 3). The text itself is never changed."""

    def bad(detail: str) -> list[Invalid]:
        return [Invalid(pointer, detail)]

    if len(url) > MAX_URL_CHARS:
        return bad(f"longer than {MAX_URL_CHARS} characters")
    if _PLAIN_URL.match(url):
        return []
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


def check_close(code: int | None, reason: str | None, place: str = "query:") -> list[Invalid]:
    """Return what is wrong with the code and reason of a close frame (contract, section 2); `place` is put before their names."""
    wrong: list[Invalid] = []
    if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
        wrong.append(Invalid(f"{place}code", "must be an integer: 1000, or 3000 to 4999"))
    elif code is not None and code != 1000 and not 3000 <= code <= 4999:
        wrong.append(Invalid(f"{place}code", "must be 1000, or 3000 to 4999"))
    if reason is not None:
        if not isinstance(reason, str):
            wrong.append(Invalid(f"{place}reason", "must be text"))
            return wrong
        try:
            length = len(reason.encode("utf-8"))
        except UnicodeEncodeError:
            wrong.append(Invalid(f"{place}reason", "is not valid Unicode (a lone surrogate)"))
        else:
            if length > MAX_REASON_BYTES:
                wrong.append(
                    Invalid(
                        f"{place}reason", f"is {length} bytes of UTF-8; a close frame has room for {MAX_REASON_BYTES}"
                    )
                )
    return wrong


def check_delay(delay_s: float, place: str = "query:") -> list[Invalid]:
    """Return what is wrong with the delay of an ordered reconnect."""
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not 0 <= delay_s <= MAX_DELAY_S:  # or NaN
        return [Invalid(f"{place}delay", f"must be 0 to {MAX_DELAY_S:.0f} seconds")]
    return []


def check_waiting(when_down: Any, ttl_s: Any, place: str = "query:") -> list[Invalid]:
    """Return what is wrong with what is said of one message that may have to wait; None: nothing is said."""
    wrong: list[Invalid] = []
    if when_down not in (None, "fail", "queue"):
        wrong.append(Invalid(f"{place}whenDown", 'must be "fail" or "queue"'))
    if ttl_s is not None and (
        isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0.1 <= ttl_s <= MAX_DELAY_S
    ):
        wrong.append(Invalid(f"{place}ttl", f"must be 0.1 to {MAX_DELAY_S:.0f} seconds"))
    return wrong


def check_timeout(timeout_s: Any, place: str = "query:") -> list[Invalid]:
    """Return what is wrong with the time in which a reply must come."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0.1 <= timeout_s <= MAX_TIMEOUT_S:
        return [Invalid(f"{place}timeout", f"must be 0.1 to {MAX_TIMEOUT_S:.0f} seconds")]
    return []


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


def escape_pointer(part: str) -> str:
    """Return `part` as one reference token of a JSON pointer (RFC 6901 section 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
