"""The journal of a cluster's log, `cluster.db`: the same journal, but that positions have holes, and that what was folded lies beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import apsw

from mooring_service.journal.batch import Append
from mooring_service.journal.folded import (
    HOLE,
    Folded,
    FoldedCopy,
    Hole,
    KeyChange,
    Pair,
    copy_folded,
    holes_of,
    open_folded,
    save_folded,
    save_keys,
    take_over,
)
from mooring_service.journal.sqlite import JOB_BYTES, SqliteJournal
from mooring_service.journal.writer import Item


class SparseJournal(SqliteJournal):
    """See `SqliteJournal`; all that is added is added by `fold`.

    Attributes:
        folded: What it held beside its events; there once it has started.
    """

    folded: Folded

    def look_beside(self, connection: apsw.Connection) -> None:
        """Look how far the log was read."""
        self.folded = open_folded(connection)
        self.holes = holes_of(self.folded.values)

    def fold(
        self, appends: list[Append], applied: int, changes: Mapping[Pair, bytes | None], keys: Sequence[KeyChange] = ()
    ) -> asyncio.Future[None]:
        """Add a message of the log, and what was folded of it: all of it, or nothing. The future ends once it is committed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def job(connection: apsw.Connection) -> None:
            save_folded(connection, applied, changes)
            save_keys(connection, keys)

        size = JOB_BYTES + sum(len(change.answer or b"") for change in keys)
        items = [Item(append, None, None, False, append.size) for append in appends]
        self.put(*items, Item(None, job, future, False, size))
        return future

    async def copy_folded(self) -> FoldedCopy:
        """Return all that was folded and is committed.

        Raises:
            JournalUnavailable: If the file cannot be asked.
        """
        return await self._do(copy_folded)

    def cross(self, hole: Hole, appends: list[Append], applied: int, copy: FoldedCopy | None) -> asyncio.Future[None]:
        """Go on behind what this file will never have, at `applied`: with all of a copy, or (None) as it is.

        Streams are told of the hole once there is something behind it.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def job(connection: apsw.Connection) -> None:
            if copy is not None:
                take_over(connection, copy)
            save_folded(connection, applied, {(HOLE, str(hole[0])): b"%d" % hole[1]})

        self.holes = [*self.holes, hole]
        size = sum(append.size for append in appends)
        self.put(
            *(Item(append, None, None, False, append.size) for append in appends), Item(None, job, future, False, size)
        )
        return future
