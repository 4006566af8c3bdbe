"""Events and statuses for people: words and colours, by what the declarations of kinds and statuses say. Pure."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from mooring.events import KINDS
from mooring_api.commands.tables import Styled, plain
from mooring_service.records import STATUS_TONES, WORKER_TONES, DownRecord

COLOURS = {"good": "green", "warn": "yellow", "bad": "red", "soft": "dim", "plain": "cyan"}
"""Tone → how a terminal shows it."""

_BY_NAME = {kind.name: info for kind, info in KINDS.items()}
_FIELD = re.compile(r"\{(\w+)([@~]?)(?:\|([^}]*)|\?([^:}]*):([^}]*)|\+([^}]*))?\}")
_ORDINALS = {1: "st", 2: "nd", 3: "rd"}


def _as_json(value: Any) -> str:
    # Not msgspec: a message may hold what it cannot write (a single surrogate).
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kind_colour(kind: str) -> str:
    """Return the colour of a kind; a service may know kinds that we do not."""
    return COLOURS[_BY_NAME[kind].tone if kind in _BY_NAME else "plain"]


def status(name: str, shown: str | None = None) -> Styled:
    """Return the status of a connection or worker, in its colour."""
    tone = STATUS_TONES.get(name) or WORKER_TONES.get(name, "plain")
    return Styled(shown or name, COLOURS[tone])


def in_words(kind: str, event: Mapping[str, Any]) -> str:
    """Return what an event says on one line that cannot drive the terminal."""
    info = _BY_NAME.get(kind)
    if info is None:
        return plain(_as_json(event))

    def filled(match: re.Match[str]) -> str:
        name, form, missing, yes, no, thing = match.groups()
        value = event.get(name)
        if yes is not None:
            return str(yes if value else no)
        if value is None:
            return missing or ""
        if form == "@" and isinstance(value, str):
            return value[11:23]
        if form == "~" and isinstance(value, int | float):
            return duration(value / 1000)
        if thing is not None:
            return f"{value} {thing}{'' if value == 1 else 's'}"
        if isinstance(value, str):
            return value
        if name == "errors":
            return "; ".join(f"{error['errCode']} {error['message']}" for error in value)
        return _as_json(value)

    return plain(_FIELD.sub(filled, info.words)).rstrip()


def duration(seconds: float) -> str:
    """Return a time as somebody says it: ``0.25 s``, ``12 s``, ``4 min 10 s``, ``3 h 5 min``, ``2 d 7 h``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.2g} s"
    whole = round(seconds)
    for large, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"


def ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``11th``."""
    return f"{number}{'th' if 10 <= number % 100 <= 20 else _ORDINALS.get(number % 10, 'th')}"


def down_in_words(down: DownRecord, now: float) -> str:
    """Return what a kept connection does to get a socket, in the words of its record: ``4th in 12 s``, ``4th dialling``.

    Args:
        now: Seconds since 1970.
    """
    if down.phase == "waiting" and down.next_attempt_at is not None:
        return f"{ordinal(down.attempt + 1)} in {duration(max(0.0, seconds_of(down.next_attempt_at) - now))}"
    if down.phase == "blocked":
        return down.phase
    began = down.phase in ("dialling", "opening", "renewing")
    return f"{ordinal(max(1, down.attempt) if began else down.attempt + 1)} {down.phase}"


def seconds_of(time: str) -> float:
    """Return the seconds since 1970 of a time of a record."""
    return datetime.datetime.fromisoformat(time).timestamp()
