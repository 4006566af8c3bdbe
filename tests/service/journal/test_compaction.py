"""Small rows become large ones behind the commits: nobody who reads sees a difference, and history is found by its index."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import apsw
import pytest

from mooring.events import Kind
from mooring_service.journal import checkpoints, compaction, derived, writer
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Journal
from tests.conftest import wait_for
from tests.service.journal.test_journal import read_all, run_of, running


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is complete after 100 KB, not 4 MiB; and the machine's own disk may be slow."""
    monkeypatch.setattr(writer, "TURN_S", 60.0)
    monkeypatch.setattr(derived, "MAX_BYTES", 20_000)
    monkeypatch.setattr(compaction, "SEGMENT_BYTES", 100_000)
    for name, pages in (("STEP_PAGES", 20), ("RESTART_PAGES", 60), ("FULL_PAGES", 400)):
        monkeypatch.setattr(checkpoints, name, pages)


async def scattered(journal: Journal, count: int) -> None:
    """Commit events one by one: of ten connections of two workers; one in a hundred is an end."""
    for number in range(count):
        kind = Kind.onTerminate if number % 100 == 99 else Kind.onMessage
        one = number % 10 + 1
        await journal.append_waiting(
            Append(
                worker="ab"[one % 2],
                connections=one.to_bytes(8, "little"),
                kinds=bytes((kind,)),
                bodies=b"%0300d" % number,
            )
        )


def rows(connection: apsw.Connection) -> list[tuple[int, int]]:
    return connection.execute("SELECT first, last FROM batches ORDER BY first").fetchall()


async def test_rows_are_joined_and_read_as_before(tmp_path: Path) -> None:
    async with running(tmp_path) as opened:
        journal = opened.journal
        await scattered(journal, 1_500)
        with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as looking:
            await wait_for(lambda: len(rows(looking)) < 700, what="rows are joined")
            held = rows(looking)
            assert [first for first, _ in held[1:]] == [last + 1 for _, last in held[:-1]], "without a hole"
            assert looking.execute("SELECT count(*) FROM segments").get > 1
        assert await read_all(journal) == list(range(1, 1_501))
        ends = list(range(100, 1_501, 100))
        assert await read_all(journal, EventFilter(kinds=frozenset({Kind.onTerminate}))) == ends
        assert await read_all(journal, EventFilter(connections=frozenset({3}))) == list(range(3, 1_501, 10))
        assert await read_all(journal, EventFilter(workers=frozenset("a"))) == list(range(2, 1_501, 2))
        chosen = random.Random(1)
        for after in chosen.sample(range(1_500), 30):  # a cursor may stand in the middle of what was joined
            assert await read_all(journal, after=after, limit=2_000) == list(range(after + 1, 1_501))


async def test_who_looks_at_an_old_state_sees_it_unchanged_while_rows_are_joined_and_dropped(tmp_path: Path) -> None:
    async with running(tmp_path, max_events=1_000) as opened:
        journal = opened.journal
        await scattered(journal, 150)
        path = str(tmp_path / "journal.db")
        with contextlib.closing(apsw.Connection(path)) as old, contextlib.closing(apsw.Connection(path)) as new:
            old.execute("BEGIN")
            before = old.execute("SELECT * FROM batches ORDER BY first").fetchall()
            assert len(before) == 150
            await scattered(journal, 1_700)
            await wait_for(lambda: journal.first > 300, what="the oldest is dropped")
            await wait_for(lambda: len(rows(new)) < 700, what="rows are joined")
            assert old.execute("SELECT * FROM batches ORDER BY first").fetchall() == before
            old.execute("COMMIT")
            assert opened.failures == []
        await wait_for(lambda: journal.last - journal.first < 1_000)
        assert await read_all(journal, after=journal.first - 1) == list(range(journal.first, 1_851))


async def test_a_row_that_is_joined_goes_as_a_whole_and_no_more_than_a_small_part_of_what_is_kept(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, max_events=640) as opened:
        await scattered(opened.journal, 2_000)
        await wait_for(lambda: opened.journal.last - opened.journal.first < 640)
        with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as looking:
            assert max(last - first for first, last in rows(looking)) < 640 // compaction.SHARE
        assert opened.journal.last - opened.journal.first >= 640 - 640 // compaction.SHARE


async def test_large_rows_are_left_as_they_are(tmp_path: Path) -> None:
    async with running(tmp_path) as opened:
        for _ in range(30):
            await opened.journal.append_waiting(run_of(1, 20, size=1_000))
        with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as looking:
            await wait_for(lambda: looking.execute("SELECT count(*) FROM segments").get > 0)
            assert len(rows(looking)) == 30
