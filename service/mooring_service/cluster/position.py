"""Where something stands in the log, as one number; connection ids that no two nodes give out; what a cursor of another epoch is worth. Pure."""

from __future__ import annotations

import msgspec

from mooring_service.journal.replica import SLOT_STEP

STEP = 10**6  # more events than one message can hold
MAX_SLOT = 9_006  # of ids below 2^53: JSON numbers that every client can hold


def position_of(seq: int, index: int = 0) -> int:
    """Return the position of event `index` (from 0) of the message at `seq`."""
    return seq * STEP + index


def seq_of(position: int) -> int:
    """Return at which place of the log an event stands."""
    return position // STEP


def connection_id(slot: int, number: int) -> int:
    """Return the id of the `number`th connection of who has `slot`."""
    return slot * SLOT_STEP + number


def slot_of(connection: int) -> int:
    """Return who gave an id out; 0: a single service."""
    return connection // SLOT_STEP


class Epoch(msgspec.Struct, frozen=True):
    """A name of the log's history: up to `base` it is that of `parent`."""

    name: str
    parent: str = ""
    base: int = 0


def resume(epochs: dict[str, Epoch], present: str, epoch: str, position: int) -> tuple[int, bool]:
    """Return behind which position a cursor `epoch`-`position` goes on in the `present` epoch, and whether something is missing.

    What an ancestor held up to the base is here, too; what is behind it comes again, with a gap before it.
    """
    base = -1
    name = present
    while name != epoch:
        known = epochs.get(name)
        if known is None or not known.parent:
            return 0, True
        limit = position_of(known.base + 1) - 1
        base = limit if base < 0 else min(base, limit)
        name = known.parent
    if base < 0 or position <= base:
        return position, False
    return base, True
