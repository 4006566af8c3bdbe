"""What a connection was asked for, kept as bytes: it is read again only where somebody opens, changes or compares it.

Of ten thousand kept connections the Structs would be three megabytes on each side of the link. Most of them differ in nothing but the
URL, which is kept beside them anyhow: so they share one object.
"""

from __future__ import annotations

import msgspec

from mooring.link.messages import LinkRequest
from mooring.options import ConnectionRequest

_MAX_SHARED = 256

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(LinkRequest)
_shared: dict[bytes, bytes] = {}


def pack(spec: ConnectionRequest, url: str) -> bytes:
    """Return `spec` as bytes, without its URL where that is `url`."""
    packed = _encode(msgspec.structs.replace(spec, url="") if spec.url == url else spec)
    if len(_shared) >= _MAX_SHARED:
        _shared.clear()
    return _shared.setdefault(packed, packed)


def unpack(packed: bytes, url: str) -> ConnectionRequest:
    """Return what `pack` has packed, with this `url` where it has none."""
    spec = _decoder.decode(packed)
    return spec if spec.url else msgspec.structs.replace(spec, url=url)
