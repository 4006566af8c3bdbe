"""What stands in the log: one msgpack array per message, by place; new fields go last, with defaults. Pure.

Codecs and nothing else. What a message means to a node is the fold's affair, what may follow what the replicator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from mooring_service.journal.addition import Addition, decode_addition

VERSION = 1  # what this program writes, and the newest that it reads
PART_BYTES = 512 * 1024
NONCE_BYTES = 8
RUN_BYTES = 4  # the first bytes of a nonce: which start of the service has made it

ADD, PART, BEAT, UP, LOST, EPOCH = "add", "part", "beat", "up", "lost", "epoch"
KINDS = frozenset({ADD, PART, BEAT, UP, LOST, EPOCH})
EPOCH_CHAIN = "_epoch"  # no node's name: those begin with a letter or digit


class Unreadable(Exception):
    """Bytes that are no message of a cluster: damaged, or a stranger's."""


class TooNew(Exception):
    """A message that a later mooring has written: this one must not go on."""


class _Version(msgspec.Struct, array_like=True):
    version: int


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A message of the log.

    `node`, `life`: whose chain, and which life of it. `prev`: the sequence of the message before it on the chain (0: none). `first`,
    `last`: which additions of that life it holds; all up to `last` are in the log with it (of a part: up to `first` - 1).
    """

    version: int
    kind: str
    node: str
    life: str
    nonce: bytes
    prev: int
    epoch: str
    first: int = 0
    last: int = 0
    additions: list[msgspec.Raw] = []
    extra: msgspec.Raw = msgspec.Raw(b"\xc0")

    @property
    def run(self) -> bytes:
        """Which start of its service has written it."""
        return self.nonce[:RUN_BYTES]


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """How a node is: `room` is how many connections it would still take."""

    connections: int = 0
    workers: int = 0
    room: int = 0
    digest: Any = None
    server: str = ""


class Returned(msgspec.Struct, frozen=True, array_like=True):
    """A life that was lost, and what it had committed and never published: events, by their local ids."""

    life: str
    events: int = 0
    from_: str | None = None
    to: str | None = None


class Up(msgspec.Struct, frozen=True, array_like=True):
    """A node has started. `returned` is the life that it had before, if that was found dead."""

    slot: int
    version: str
    write_version: int
    url: str
    capacity: int
    configuration: str
    dead_after_s: float
    time_us: int
    returned: Returned | None = None


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """A life is over: said by `by` after `silent_ms`; `reason` is "stopped" where a node says it of itself, in order."""

    life: str
    by: str
    silent_ms: int
    reason: str
    workers: int
    connections: int
    time_us: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Piece `index` (from 0) of `count` of an addition that is too large for one message."""

    index: int
    count: int


class EpochBegins(msgspec.Struct, frozen=True, array_like=True):
    """The log has this name from here on."""

    epoch: str
    parent: str
    base: int
    by: str


Extra = TypeVar("Extra", Beat, Up, Lost, Part, EpochBegins)
_encode = msgspec.msgpack.Encoder().encode
_decode_version = msgspec.msgpack.Decoder(_Version).decode
_decode = msgspec.msgpack.Decoder(Message).decode


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    return _encode(message)


def raw(value: Any) -> msgspec.Raw:
    """Return an extra, or an addition, as it rides in a message."""
    return msgspec.Raw(_encode(value))


def piece(data: bytes) -> msgspec.Raw:
    """Return a piece of an addition as it rides in a part."""
    return msgspec.Raw(_encode(data))


def decode(data: bytes) -> Message:
    """Return a message.

    Raises:
        Unreadable: If it is none.
        TooNew: If it is of a later version.
    """
    try:
        version = _decode_version(data).version
        if version > VERSION:
            raise TooNew(f"a message of the log has version {version}, this mooring knows {VERSION}: start a later one")
        message = _decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise Unreadable(f"a damaged message: {exc}") from None
    if message.version < 1 or message.kind not in KINDS or len(message.nonce) != NONCE_BYTES:
        raise Unreadable(f"a message of an unknown kind {message.kind[:20]!r}")
    return message


def extra(message: Message, kind: type[Extra]) -> Extra:
    """Return what a message says beside its additions.

    Raises:
        Unreadable: If it is damaged.
    """
    try:
        return msgspec.msgpack.decode(message.extra, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise Unreadable(f"a damaged {message.kind}: {exc}") from None


def additions(pieces: Sequence[bytes | msgspec.Raw]) -> list[Addition]:
    """Return the additions of a message.

    Raises:
        Unreadable: If one is damaged, or can never be shown.
    """
    found = []
    for data in pieces:
        try:
            addition = decode_addition(data)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise Unreadable(f"a damaged addition: {exc}") from None
        if wrong := addition.append().wrong:
            raise Unreadable(f"an addition that cannot be shown: {wrong}")
        found.append(addition)
    return found


def cut(addition: bytes) -> list[bytes]:
    """Return the pieces in which a large addition is published."""
    return [addition[at : at + PART_BYTES] for at in range(0, len(addition), PART_BYTES)]


def piece_of(message: Message) -> bytes:
    """Return the piece that a part bears.

    Raises:
        Unreadable: If it bears none.
    """
    try:
        return msgspec.msgpack.decode(message.additions[0], type=bytes)
    except (msgspec.DecodeError, msgspec.ValidationError, IndexError) as exc:
        raise Unreadable(f"a damaged part: {exc}") from None
