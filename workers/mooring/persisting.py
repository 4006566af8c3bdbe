"""What of a create request must not be written to disk: a connection that persists names its secrets, and holds none. Leaf, pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mooring.checks import HeaderValue, escape_pointer
from mooring.dial_options import ProxyRequest
from mooring.errors import Invalid

PLAIN_HEADERS = frozenset({"origin", "user-agent", "accept-language"})
"""Headers that say nothing secret: what is persisted may hold their values as literals."""

_HAS_SECRET = re.compile(r"(?<!\$)\$\{secret:[^}]+\}")


def persist_faults(headers: Mapping[str, HeaderValue], proxy: object) -> list[Invalid]:
    """Return what of these would be a secret on disk."""
    wrong = []
    for name, value in headers.items():
        texts = [value] if isinstance(value, str) else value
        if name.lower() not in PLAIN_HEADERS and not all(map(_HAS_SECRET.search, texts)):
            place = f"/headers/{escape_pointer(name)[:100]}"
            wrong.append(Invalid(place, "persist writes it to disk: the value must have a ${secret:NAME}"))
    if isinstance(proxy, ProxyRequest) and proxy.password is not None:
        wrong.append(Invalid("/proxy/password", "persist writes it to disk: use a proxy of [proxies], by its name"))
    return wrong
