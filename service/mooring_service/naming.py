"""Names of connections: one that has not ended has it alone, also while it is being begun; and whether two ask for the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec

from mooring.checks import escape_pointer
from mooring.name_errors import NameTaken
from mooring.options import OPTIONS, ConnectionRequest, effective
from mooring_service.directory import Directory

MAX_PLACES = 20  # of what differs: who is told so many looks at both


class Names:
    """Who has which name. What is committed is in the directory; this knows of what is on its way there."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._begun: dict[str, asyncio.Future[None]] = {}

    @contextlib.contextmanager
    def taken(self, name: str | None, connection: int = 0) -> Iterator[None]:
        """Hold `name` until the intent of its connection is committed, or given up.

        Raises:
            NameTaken: If another one has it.
        """
        if name is None:
            yield
            return
        living = self._directory.living(name)
        if living is not None or name in self._begun:
            raise NameTaken(name, 0 if living is None else living.created.id)
        settled = self._begun[name] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._begun[name]
            settled.set_result(None)

    async def settled(self, name: str) -> None:
        """Wait until no connection of this name is being begun."""
        while name in self._begun:
            await asyncio.wait({self._begun[name]})


def difference(one: ConnectionRequest, other: ConnectionRequest, limit: int = MAX_PLACES) -> list[str]:
    """Return pointers to what two requests ask for differently, with the defaults filled in, so many at most (0: all). No value is
    in them.
    """
    found: list[str] = []
    _compare(_standing(one), _standing(other), "", found)
    return found[: limit or None]


def _standing(request: ConnectionRequest) -> dict[str, Any]:
    options = effective(request)
    asked = {
        option.key: getattr(options, option.becomes) if option.by_handler else getattr(request, option.name)
        for option in OPTIONS.values()
        if option.name != "name"
    }
    asked["url"] = request.url
    headers: dict[str, list[str]] = {}
    for name, value in options.headers:
        headers.setdefault(name.lower(), []).append(value)
    asked["headers"] = headers
    standing: dict[str, Any] = msgspec.to_builtins(
        {key: value for key, value in asked.items() if value is not msgspec.UNSET}
    )
    return standing


def _compare(one: Any, other: Any, place: str, found: list[str]) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            _compare(one.get(key), other.get(key), f"{place}/{escape_pointer(str(key))[:100]}", found)
    elif one != other or isinstance(one, bool) is not isinstance(other, bool):
        found.append(place)
