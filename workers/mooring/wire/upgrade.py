"""The opening handshake of RFC 6455: what we ask, and whether the answer is what section 4.1 wants. Pure."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from urllib.parse import unquote, unquote_plus

import msgspec
from multidict import CIMultiDictProxy

from mooring.options import ConnectionOptions
from mooring.version import __version__
from mooring.wire.frames import Deflate
from mooring.wire.target import Target

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_BREAKS = re.compile(r"[\r\n\0]")
_SHORT_CHARS = 4


class InvalidHandshake(Exception):
    """The answer breaks RFC 6455 section 4.1; the text says how."""


class Negotiated(msgspec.Struct, frozen=True):
    """What both sides agreed on."""

    protocol: str | None
    deflate: Deflate | None


def request_head(target: Target, options: ConnectionOptions, key: bytes) -> bytes:
    """Return the request for `target`; `key` is fresh and random (base64 of 16 bytes).

    Raises:
        ValueError: If a header would break out of its line.
    """
    headers = [
        ("Host", target.host_header),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.decode()),
    ]
    if options.protocols:
        headers.append(("Sec-WebSocket-Protocol", ", ".join(options.protocols)))
    if options.compress:
        headers.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
    if all(name.lower() != "user-agent" for name, _ in options.headers):
        headers.append(("User-Agent", f"mooring/{__version__}"))  # without one, common rules of servers answer 403
    headers += options.headers
    lines = [f"GET {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any(_BREAKS.search(line) for line in lines):
        raise ValueError("a line break in a header")
    return "\r\n".join([*lines, "", ""]).encode()


def check_answer(headers: CIMultiDictProxy[str], key: bytes, options: ConnectionOptions) -> Negotiated:
    """Hold the headers of a 101 against RFC 6455 section 4.1.

    Raises:
        InvalidHandshake: If they are not what was asked for.
    """
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        raise InvalidHandshake("no 'Upgrade: websocket'")
    if "upgrade" not in (part.strip().lower() for part in ",".join(headers.getall("Connection", ())).split(",")):
        raise InvalidHandshake("no 'Connection: Upgrade'")
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest()).decode()
    if [value.strip() for value in headers.getall("Sec-WebSocket-Accept", ())] != [accept]:
        raise InvalidHandshake("a missing or wrong Sec-WebSocket-Accept")
    protocols = headers.getall("Sec-WebSocket-Protocol", [])
    protocol = protocols[0].strip() if protocols else None
    if len(protocols) > 1 or (protocol is not None and protocol not in options.protocols):
        raise InvalidHandshake("a subprotocol that was not offered")
    extensions = ",".join(headers.getall("Sec-WebSocket-Extensions", [])).strip()
    if not extensions:
        return Negotiated(protocol, None)
    if not options.compress:
        raise InvalidHandshake("an extension that was not offered")
    deflate = parse_deflate(extensions)
    if deflate is None:
        raise InvalidHandshake("an extension that was not offered, or malformed parameters of permessage-deflate")
    return Negotiated(protocol, deflate)


def parse_deflate(text: str) -> Deflate | None:
    """Return what a ``Sec-WebSocket-Extensions`` answer to our offer means; None if it breaks RFC 7692 section 7.1."""
    name, *params = (part.strip() for part in text.split(";"))
    if name.lower() != "permessage-deflate":
        return None
    seen: dict[str, str | None] = {}
    for param in params:
        key, equals, value = (part.strip() for part in param.partition("="))
        if key in seen:
            return None
        seen[key] = value.strip('"') if equals else None
    bits = {"server_max_window_bits": 15, "client_max_window_bits": 15}
    for key, given in seen.items():
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover":
                if given is not None:
                    return None
            case "server_max_window_bits" | "client_max_window_bits":
                # zlib cannot compress raw data with a window of 256 bytes: 8 is refused where we would have to.
                lowest = 8 if key == "server_max_window_bits" else 9
                if given is None or not (given.isascii() and given.isdigit() and given == str(int(given))):
                    return None
                if not lowest <= int(given) <= 15:
                    return None
                bits[key] = int(given)
            case _:
                return None
    return Deflate("server_no_context_takeover" in seen, "client_no_context_takeover" in seen, **bits)


def without_secrets(text: str, options: ConnectionOptions) -> str:
    """Return `text`, which a server wrote, without what we sent it and nobody else should read.

    Servers repeat the request in their error pages; query and header values are shown in no text of ours (contract, 6).
    """
    for secret in sorted(_secrets(options), key=len, reverse=True):
        if secret in text:
            pattern = re.escape(secret)
            if len(secret) < _SHORT_CHARS:  # as a word of its own: an "1" stands in every second page
                pattern = rf"(?<!\w){pattern}(?!\w)"
            text = re.sub(pattern, "…", text)
        # `text` was cut off somewhere, perhaps in the middle of it.
        for length in range(min(len(secret) - 1, len(text)), _SHORT_CHARS - 1, -1):
            if text.endswith(secret[:length]):
                text = f"{text[:-length]}…"
                break
    return text


def _secrets(options: ConnectionOptions) -> set[str]:
    query = options.url.partition("?")[2]
    found = {query, *(_value(part) for part in re.split("[&;]", query))}
    for _, value in options.headers:
        parts = re.split(r"[\s,;]+", value)
        found |= {value, *(word for part in parts for word in (part, _value(part)) if len(word) >= _SHORT_CHARS)}
    found |= {spelled for value in found for spelled in (unquote(value), unquote_plus(value))}
    found |= {html.escape(value) for value in found}
    return found - {""}


def _value(part: str) -> str:
    name, equals, value = part.partition("=")
    return value if equals else name
