"""Cursors: the text a subscriber resumes from, and the position it means. Pure."""

from __future__ import annotations

import re

import msgspec

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,19})\Z")
MAX_CURSOR_CHARS = 200


class From(msgspec.Struct, frozen=True):
    """Everything after `position`; `oldest`: everything that is kept, from wherever it begins by the time it is read."""

    position: int
    oldest: bool = False


class Broken(msgspec.Struct, frozen=True):
    """The cursor names nothing that can be continued; `position` when it is of this epoch (too old, or in the future)."""

    text: str
    position: int | None


def parse_cursor(text: str, *, epoch: str, first: int, last: int, reach: int = 0) -> From | Broken:
    """Return what a cursor means in a journal that keeps `first` … `last`; up to `reach` there are positions that are not shown here yet.

    ``start`` is everything kept, ``now`` nothing that is there already, otherwise an event's id: ``<epoch>-<position>``.
    """
    if text == "start":
        return From(first - 1, oldest=True)
    if text == "now":
        return From(last)
    match = _ID.match(text) if len(text) <= MAX_CURSOR_CHARS else None
    if match is None or match[1] != epoch:
        return Broken(text[:MAX_CURSOR_CHARS], None)
    position = int(match[2])
    if first - 1 <= position <= max(last, reach):
        return From(position)
    return Broken(text, position)


def ahead_of(text: str, *, epoch: str, last: int) -> int | None:
    """Return the position that a cursor of this epoch means, if that is behind `last`; else None."""
    match = _ID.match(text) if len(text) <= MAX_CURSOR_CHARS else None
    return int(match[2]) if match is not None and match[1] == epoch and int(match[2]) > last else None
