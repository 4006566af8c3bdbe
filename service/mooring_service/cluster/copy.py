"""What a node has folded, on its way to one that the log has outrun: its own state of the log, and the records of all connections. Pure.

By place: new fields go last, and get defaults. Events are not in it: what lies between is told to streams as a gap.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mooring.link.record import STATUS_CLOSED, ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append
from mooring_service.journal.folded import FoldedCopy

PIECE_BYTES = 512 * 1024
RECORDS = 500  # in one addition

Pair = tuple[ConnectionCreated, ConnectionUpdate]


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """All that was folded up to a message, `folded.applied`; the records may be later ones, which what follows in the log sets right."""

    folded: FoldedCopy
    records: list[Pair]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Copy).decode


def pieces_of(copy: Copy) -> list[bytes]:
    """Return it as pieces that the engine takes, at least one."""
    whole = _encode(copy)
    return [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]


def joined(pieces: Iterable[bytes]) -> Copy:
    """Return what `pieces_of` has cut.

    Raises:
        msgspec.MsgspecError: If it is none, or of a mooring that keeps it otherwise.
    """
    return _decode(b"".join(pieces))


def additions_of(copy: Copy, known: Iterable[Pair]) -> list[Append]:
    """Return what brings the records of one that has `known` to where those of the copy are.

    What has not ended here, and is not known there any more, has ended meanwhile.
    """
    by_worker: dict[str, list[Pair]] = {}
    for created, update in copy.records:
        by_worker.setdefault(created.worker, []).append((created, update))
    there = {created.id for created, _ in copy.records}
    for created, update in known:
        if created.id not in there and not update.ended:
            ended = msgspec.structs.replace(update, status=STATUS_CLOSED, ended=True)
            by_worker.setdefault(created.worker, []).append((created, ended))
    return [
        Append(
            worker=worker,
            created=[created for created, _ in pairs[at : at + RECORDS]],
            updates=[update for _, update in pairs[at : at + RECORDS]],
        )
        for worker, pairs in sorted(by_worker.items())
        for at in range(0, len(pairs), RECORDS)
    ]
