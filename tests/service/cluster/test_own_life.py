"""What a state directory keeps of the life that its node is in, where lives follow each other while it is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import msgspec

from mooring_service.cluster.birth import Kept
from mooring_service.cluster.own_life import OwnLife
from mooring_service.config import JournalConfig
from mooring_service.journal.replica import Replica
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import wait_for

DEADLINE_S = 60.0


@contextlib.asynccontextmanager
async def own_life(folder: Path) -> AsyncIterator[tuple[OwnLife, SqliteJournal]]:
    """The first life of a state directory."""
    path = folder / "journal.db"
    journal = SqliteJournal(path, JournalConfig(), replica=Replica(path))
    await journal.start(lambda _: None, lambda _: None)

    async def end() -> None:
        pass

    try:
        yield OwnLife("c", "a", journal, end, contextlib.nullcontext, has_connections=False), journal
    finally:
        await journal.stop()


def kept_in(folder: Path) -> Kept:
    """Return what a restart would know."""
    with contextlib.closing(apsw.Connection(str(folder / "journal.db"), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        ((state,),) = file.execute("SELECT value FROM meta WHERE name = 'cluster'")
    return msgspec.msgpack.decode(bytes(state), type=Kept)


async def test_a_life_that_begins_while_the_disk_takes_nothing_is_kept_when_it_says_so_and_not_before(
    tmp_path: Path,
) -> None:
    async with own_life(tmp_path) as (own, journal):
        await own.save(0)
        old = own.kept.life
        with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as other:
            other.set_busy_timeout(60_000)
            other.execute("BEGIN IMMEDIATE")  # nothing is committed there
            saving = asyncio.create_task(own.save(1))
            await wait_for(lambda: journal.failure is not None, DEADLINE_S)
            own.kept.begin(5, slot=1)  # nothing of the old one was told yet
            other.execute("ROLLBACK")
        await asyncio.wait_for(saving, DEADLINE_S)
        assert kept_in(tmp_path).life == old
        await own.save(5)
        assert kept_in(tmp_path) == own.kept


async def test_what_was_counted_in_the_life_before_is_not_taken_for_more_than_it_was(tmp_path: Path) -> None:
    async with own_life(tmp_path) as (own, _):
        own.kept.begin(10, slot=1)
        await own.save(7)
        assert own.kept.replicated == kept_in(tmp_path).replicated == 10
