"""Events and statuses for people: words and colours, by what the declarations of kinds and statuses say. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from mooring.events import KINDS
from mooring_api.commands.tables import plain
from mooring_service.records import STATUS_TONES, WORKER_TONES

COLOURS = {"good": "green", "warn": "yellow", "bad": "red", "soft": "dim", "plain": "cyan"}
"""Tone → how a terminal shows it."""

_BY_NAME = {kind.name: info for kind, info in KINDS.items()}
_FIELD = re.compile(r"\{(\w+)(?:\|([^}]*)|\?([^:}]*):([^}]*))?\}")


def _as_json(value: Any) -> str:
    # Not msgspec: a message may hold what it cannot write (a single surrogate).
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kind_colour(kind: str) -> str:
    """Return the colour of a kind; a service may know kinds that we do not."""
    return COLOURS[_BY_NAME[kind].tone if kind in _BY_NAME else "plain"]


def status(name: str, shown: str | None = None) -> Text:
    """Return the status of a connection or worker, in its colour."""
    tone = STATUS_TONES.get(name) or WORKER_TONES.get(name, "plain")
    return Text(shown or name, style=COLOURS[tone])


def in_words(kind: str, event: Mapping[str, Any]) -> str:
    """Return what an event says on one line that cannot drive the terminal."""
    info = _BY_NAME.get(kind)
    if info is None:
        return plain(_as_json(event))

    def filled(match: re.Match[str]) -> str:
        name, missing, yes, no = match.groups()
        value = event.get(name)
        if yes is not None:
            return str(yes if value else no)
        if value is None:
            return missing or ""
        if isinstance(value, str):
            return value
        if name == "errors":
            return "; ".join(f"{error['errCode']} {error['message']}" for error in value)
        return _as_json(value)

    return plain(_FIELD.sub(filled, info.words)).rstrip()
