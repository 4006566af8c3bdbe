"""Functions that change connections."""

from __future__ import annotations

from typing import Any

from mooring import WebSocket
from mooring.errors import MooringError

_made: dict[int, WebSocket] = {}


class Kept:
    """Stays, and says a header of its own."""

    reconnect = {"min_delay": 0.05}
    headers = {"A": "of the handler"}


def open_changed(url: str) -> int:
    """Open a kept connection."""
    made = WebSocket.new(url, Kept())
    _made[made.id] = made
    return made.id


def change(connection: int, options: dict[str, Any]) -> str:
    """Change it; return what is wrong."""
    try:
        _made[connection].update(**options)
    except MooringError as exc:
        return f"{type(exc).__name__}: {exc}"
    return ""
