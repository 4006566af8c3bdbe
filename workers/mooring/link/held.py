"""The connections that a hello names, each packed by itself: who gets one of twenty thousand need not read them all at once."""

from __future__ import annotations

import msgspec

from mooring.link.messages import LinkRequest
from mooring.link.record import ConnectionCreated, ConnectionUpdate


class HeldConnection(msgspec.Struct, frozen=True, array_like=True):
    """A connection that the worker holds, in `Hello`, which says neither URL nor header names: all must fit one frame.

    `spec`: of a kept one, what it was asked for: with it another process can open it again.
    """

    created: ConnectionCreated
    update: ConnectionUpdate
    spec: LinkRequest | None = None


class _Id(msgspec.Struct, frozen=True, array_like=True):
    id: int


class _Named(msgspec.Struct, frozen=True, array_like=True):
    created: _Id


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(HeldConnection).decode
_decode_id = msgspec.msgpack.Decoder(_Named).decode


def pack(held: HeldConnection) -> msgspec.Raw:
    """Return it as it stands in a hello."""
    return msgspec.Raw(_encode(held))


def read(packed: msgspec.Raw) -> HeldConnection:
    """Return what was packed.

    Raises:
        msgspec.MsgspecError: If it is something else.
    """
    return _decode(packed)


def id_of(packed: msgspec.Raw) -> int:
    """Return which connection it is.

    Raises:
        msgspec.MsgspecError: If it is something else.
    """
    return _decode_id(packed).created.id
