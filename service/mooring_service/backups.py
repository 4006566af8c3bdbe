"""Copies of the journal, made aside in the state directory: one at a time, and none of them is left behind."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from mooring.errors import Unavailable
from mooring_service.journal.journal import Journal

log = logging.getLogger("mooring.service")


class Backups:
    """Makes copies of the journal.

    Args:
        folder: Where they lie while somebody reads them.
    """

    def __init__(self, journal: Journal, folder: Path) -> None:
        self._journal = journal
        self._folder = folder
        self._busy = False

    def sweep(self) -> None:
        """Remove what a service that was killed has left."""
        for left in self._folder.glob("backup-*.db*"):
            _remove(left)

    @contextlib.asynccontextmanager
    async def copy(self) -> AsyncIterator[Path]:
        """A consistent copy, as long as the block lasts.

        Raises:
            Unavailable: If another one is there already: each is as large as the journal.
            JournalUnavailable: If it cannot be made.
        """
        if self._busy:
            raise Unavailable("the journal is being copied already")
        self._busy = True
        path = self._folder / f"backup-{secrets.token_hex(4)}.db"
        try:
            await self._journal.backup(str(path))
            yield path
        finally:
            self._busy = False
            _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.error("%s cannot be removed: %s", path, exc.strerror)
