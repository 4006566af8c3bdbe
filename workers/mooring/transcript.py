"""What two ends of a connection say to each other, written down: one line each. Pure.

``< text``: the server says it. ``> text``: the client is to say it. ``~ 2.5``: so many seconds pass. ``# …`` and empty lines are for
readers; any other line is the server's. Where ``>`` is JSON it is compared as JSON, and ``"*"`` in it stands for any value.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mooring import json_text

MAX_TRANSCRIPT_BYTES = 4 * 1024 * 1024


class Line(msgspec.Struct, frozen=True):
    """One line: `number` from 1."""

    kind: Literal["<", ">", "~"]
    text: str
    number: int

    @property
    def seconds(self) -> float:
        """Of a ``~``: how long it takes."""
        return float(self.text)


def parse_transcript(text: str) -> list[Line]:
    """Return the lines of a transcript.

    Raises:
        ValueError: If it is too long, or time does not pass as it should; the text names the line.
    """
    if len(text) > MAX_TRANSCRIPT_BYTES:
        raise ValueError(f"longer than {MAX_TRANSCRIPT_BYTES} characters")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, said = (line[0], line[1:].removeprefix(" ")) if line[0] in "<>~" else ("<", line)
        if kind == "~" and not _is_duration(said):
            raise ValueError(f"line {number}: ~ needs seconds, 0 to 86400")
        found.append(Line(kind, said, number))  # type: ignore[arg-type]  # one of the three, as tested
    return found


def _is_duration(text: str) -> bool:
    try:
        return 0 <= float(text) <= 86_400
    except ValueError:
        return False


def is_meant(expected: str, said: bytes) -> bool:
    """Say whether `said` is what a ``>`` line means."""
    if said == expected.encode():
        return True
    try:
        return _matches(json_text.decode(expected.encode()), json_text.decode(said))
    except (json_text.NotJson, UnicodeDecodeError):
        return False


def _matches(expected: Any, found: Any) -> bool:
    if expected == "*":
        return True
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(_matches(expected[key], found[key]) for key in expected)
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_matches, expected, found))
    return bool(expected == found) and isinstance(expected, bool) is isinstance(found, bool)
