"""Where a dial goes, read from the text of its URL. Pure.

The text goes on the wire as it was passed: what is escaped stays escaped, and only what HTTP does not carry is escaped.
Only the host is translated: many spellings in Unicode are one name (RFC 5895), and the egress policy must see that one.
"""

from __future__ import annotations

import re

import msgspec
from yarl import URL

_OUTSIDE_HTTP = re.compile(r"[^\x21-\x7e]+")  # RFC 9112 section 3.2: a request's target is visible ASCII
_PORT = re.compile(r":([0-9]{1,5})\Z")
_PATH = re.compile(r"[/?]")
_HOST = re.compile(r"[A-Za-z0-9._-]+")


class Target(msgspec.Struct, frozen=True):
    """One server.

    Attributes:
        secure: Whether TLS is spoken with it.
        host: Its name in ASCII, or its address without brackets: what is resolved, judged and verified.
        is_literal: Whether the host stood in brackets, and so is an address or nothing.
        place: ``host:port``, for texts.
        host_header: What ``Host`` says.
        path: Path and query, as a request's line has them.
    """

    secure: bool
    host: str
    port: int
    is_literal: bool
    place: str
    host_header: str
    path: str


def parse_target(url: str) -> Target:
    """Return the server that `url` (``ws``, ``wss``, ``http``, ``https``) names.

    Raises:
        ValueError: If its host is none; the text says so, and does not hold the query.
    """
    scheme, _, rest = url.partition("://")
    found = _PATH.search(rest)
    authority, path = (rest, "/") if found is None else (rest[: found.start()], rest[found.start() :])
    if path.startswith("?"):
        path = f"/{path}"
    secure = scheme.lower() in ("wss", "https")
    default = 443 if secure else 80
    given = _PORT.search(authority)
    port = int(given[1]) if given else default
    host = authority[: given.start()] if given else authority
    is_literal = host.startswith("[") and host.endswith("]")
    if is_literal:
        host = host[1:-1].replace("%25", "%")  # a zone (RFC 6874)
        shown = f"[{host.partition('%')[0]}]"  # it means nothing to anybody else
    else:
        try:
            host = shown = ascii_host(host)
        except ValueError:
            raise ValueError(f"{host}:{port} is not a host that can be dialled") from None
    name = shown.rstrip(".")  # the final dot says that a name is complete; no server is configured with it
    return Target(
        secure=secure,
        host=host,
        port=port,
        is_literal=is_literal,
        place=f"{shown}:{port}",
        host_header=name if port == default else f"{name}:{port}",
        path=_OUTSIDE_HTTP.sub(_escape, path),
    )


def ascii_host(host: str) -> str:
    """Return a host's name as it is looked up (IDNA, UTS 46).

    Raises:
        ValueError: If it is none.
    """
    if not host.isascii():
        host = URL.build(scheme="http", host=host).raw_host or ""
    if not _HOST.fullmatch(host):
        raise ValueError("not a host")
    return host


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())
