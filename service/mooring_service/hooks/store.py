"""``hooks.json``: definitions and secrets of all hooks, 0600, beside the journal; it outlives a journal that is set aside.

It is replaced as a whole, by a rename, and says nothing of where a hook is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from mooring import private_files
from mooring.errors import MooringError
from mooring_service.hook_options import HookRequest
from mooring_service.hooks.hook import Secret

VERSION = 1


class StoredDefinition(msgspec.Struct, frozen=True, rename="camel"):
    """One hook in the file. `secrets` is empty where they stand in a file of their own."""

    definition: HookRequest
    secrets: list[Secret]
    created_us: int
    configured: bool = False
    paused: str | None = None
    paused_us: int = 0
    also_paused: str | None = None


class _File(msgspec.Struct, frozen=True):
    version: int
    hooks: dict[str, StoredDefinition]


class HooksUnreadable(MooringError):
    """The file is there, and cannot be used: nothing is begun over it."""

    def __init__(self, path: Path, detail: str) -> None:
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class HookStore:
    """The file. Writes follow one another, and each is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()

    def load(self) -> dict[str, StoredDefinition]:
        """Return what the file holds: nothing, where there is none.

        Raises:
            HooksUnreadable: If it cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise HooksUnreadable(self._path, f"cannot be read: {exc.strerror}") from None
        try:
            file = msgspec.json.decode(data, type=_File)
        except msgspec.MsgspecError:
            raise HooksUnreadable(self._path, "is not what mooring has written; mend it, or move it away") from None
        if file.version != VERSION:
            raise HooksUnreadable(self._path, f"is of version {file.version}; this mooring knows {VERSION}")
        return file.hooks

    async def save(self, hooks: dict[str, StoredDefinition]) -> None:
        """Replace the file.

        Raises:
            OSError: If it cannot be written; the old one stands then.
        """
        data = msgspec.json.format(msgspec.json.encode(_File(VERSION, hooks)), indent=1)
        async with self._writing:
            await asyncio.to_thread(private_files.replace, self._path, data + b"\n", synced=True)
