"""``mooring tail --cursor``: where a pipeline is, in a file that is replaced after each flush of what was printed."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mooring import private_files
from mooring_api.client import Event
from mooring_api.commands.target import Failure

FLUSH_EVENTS = 500
IDLE_S = 0.05  # when nothing has come for so long, what was printed is flushed
MAX_CHARS = 200


class CursorFile:
    """The id of the last event whose line was flushed.

    Args:
        synced: Line and id have reached the disk before the next ones count, where standard output is a file.
    """

    def __init__(self, path: Path, *, synced: bool) -> None:
        self._path = path
        self._synced = synced
        self._syncs_output = synced and stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)

    def read(self) -> str | None:
        """Return the id; None where there is no file.

        Raises:
            Failure: If it holds anything else.
        """
        try:
            text = self._path.read_text().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise Failure(
                f"{self._path}: cannot be read: {getattr(exc, 'strerror', None) or 'it is not text'}"
            ) from None
        if not text or len(text) > MAX_CHARS or len(text.split()) != 1:
            raise Failure(f"{self._path}: does not hold one event's id; remove it to begin anew")
        return text

    def write(self, cursor: str) -> None:
        """Flush what was printed, then keep `cursor`."""
        sys.stdout.flush()
        if self._syncs_output:
            os.fsync(sys.stdout.fileno())
        temporary = self._path.with_name(f"{self._path.name}.new")
        with temporary.open("w") as file:
            file.write(f"{cursor}\n")
            if self._synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(self._path)
        if self._synced:
            private_files.sync_folder(self._path.absolute().parent)

    async def print_all(self, events: AsyncIterator[tuple[Event, bytes]], limit: int | None) -> None:
        """Print the JSON of each event; after each flush the file says so. Ends with them, or at `limit`."""
        cursor, unflushed, count = "", 0, 0
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while limit is None or count < limit:
                if unflushed and not (await asyncio.wait({coming}, timeout=IDLE_S))[0]:
                    unflushed = self._flushed(cursor)
                found = await coming
                if found is None:
                    break
                event, raw = found
                sys.stdout.buffer.write(raw + b"\n")
                cursor, unflushed, count = event.id, unflushed + 1, count + 1
                if unflushed >= FLUSH_EVENTS:
                    unflushed = self._flushed(cursor)
                if limit is None or count < limit:
                    coming = asyncio.ensure_future(anext(events, None))
        finally:
            coming.cancel()
            if unflushed:
                self._flushed(cursor)

    def _flushed(self, cursor: str) -> int:
        sys.stdout.buffer.flush()
        self.write(cursor)
        return 0
