"""Checkpoints: no commit waits for the disk, a log is bounded, and a disk that stands still is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from mooring_service.journal import checkpoints
from mooring_service.journal.checkpoints import PAGE_BYTES
from mooring_service.journal.file import check_version
from mooring_service.journal.journal import JournalUnusable
from tests.conftest import wait_for
from tests.service.journal.test_journal import read_all, run_of, running


class Disk(apsw.VFS):
    """The machine's files, where each wait for the disk is seen, and may be long."""

    def __init__(self) -> None:
        self.syncs: list[str] = []  # threads that have waited for the disk
        self.moves = threading.Event()
        self.moves.set()
        self.base = apsw.vfs_names()[0]
        super().__init__("watched", self.base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.base, name, flags)
        self._disk = disk

    def xSync(self, flags: int) -> None:
        self._disk.syncs.append(threading.current_thread().name)
        assert self._disk.moves.wait(600), "the test has ended"
        super().xSync(flags)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    watched = Disk()
    apsw.set_default_vfs("watched")
    sync = os.fdatasync

    def fdatasync(file: int) -> None:
        watched.syncs.append(threading.current_thread().name)
        assert watched.moves.wait(600), "the test has ended"
        sync(file)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    yield watched
    watched.moves.set()
    apsw.set_default_vfs(watched.base)
    watched.unregister()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of a few pages is long; and the machine's own disk may be slow."""
    for module, name in (("writer", "TURN_S"), ("writer", "END_S"), ("checkpoints", "END_S")):
        monkeypatch.setattr(f"mooring_service.journal.{module}.{name}", 60.0)
    for name, pages in (("STEP_PAGES", 20), ("RESTART_PAGES", 60), ("FULL_PAGES", 400)):
        monkeypatch.setattr(checkpoints, name, pages)


async def test_no_commit_waits_for_the_disk(tmp_path: Path, disk: Disk, small: None) -> None:
    async with running(tmp_path) as opened:
        disk.syncs.clear()
        for _ in range(500):
            await opened.journal.append_waiting(run_of(1, 1, size=1_000))
        await wait_for(lambda: len(disk.syncs) > 5)
        assert set(disk.syncs) == {"journal-checkpoints"}


async def test_a_disk_that_stands_still_holds_up_nothing_until_the_log_is_full_and_then_it_is_told(
    tmp_path: Path, disk: Disk, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.TURN_S", 0.1)
    async with running(tmp_path) as opened:
        journal = opened.journal
        await journal.append_waiting(run_of(1, 1))
        # The checkpoint of the start has its turn: what it waits for, everybody waits for. Then its thread sleeps.
        thread = journal._checkpoints  # type: ignore[attr-defined]
        await wait_for(lambda: thread._wanted_pages and thread._changed._waiters, what="that checkpoint is over")
        disk.moves.clear()
        written = 0
        async with asyncio.timeout(60):
            waiting = journal.append_waiting(run_of(1, 1, size=1_000))
            while not opened.failures:
                done, _ = await asyncio.wait({waiting}, timeout=0.05)
                if done:
                    written += 1
                    waiting = journal.append_waiting(run_of(1, 1, size=1_000))
        assert written > 200, "the log has held what the disk did not take"
        assert "disk does not keep up" in str(journal.failure)
        assert (tmp_path / "journal.db-wal").stat().st_size < 2 * 400 * (PAGE_BYTES + 24)
        disk.moves.set()
        async with asyncio.timeout(60):
            await waiting
        assert opened.failures == [opened.failures[0], None]
        assert await read_all(journal) == list(range(1, written + 3)), "nothing is lost or there twice"


async def test_under_level_power_each_commit_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    async with running(tmp_path, level="power") as opened:
        disk.syncs.clear()
        for _ in range(20):
            await opened.journal.append_waiting(run_of(1, 1))
        assert disk.syncs.count("journal-writer") >= 20


async def test_the_log_stays_small_under_load_and_begins_anew_once_an_old_look_has_ended(
    tmp_path: Path, small: None
) -> None:
    log = tmp_path / "journal.db-wal"

    def begun() -> int:
        return int.from_bytes(log.read_bytes()[12:16], "big")  # sqlite.org/fileformat2.html, 4.1: the sequence number

    async with running(tmp_path) as opened:
        journal = opened.journal
        for _ in range(600):
            await journal.append_waiting(run_of(1, 1, size=2_000))
        small_bytes = log.stat().st_size
        assert small_bytes < 2 * 400 * (PAGE_BYTES + 24)
        with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as looking:
            looking.execute("BEGIN; SELECT count(*) FROM batches").fetchall()
            while log.stat().st_size <= small_bytes:
                await journal.append_waiting(run_of(1, 1, size=2_000))
            before = begun()
            for _ in range(600):
                await journal.append_waiting(run_of(1, 1, size=2_000))
            assert begun() == before, "a log that is looked at cannot begin anew"
            assert opened.failures == [], "and holds nobody up"
            looking.execute("COMMIT")
        async with asyncio.timeout(60):
            while begun() == before:
                await journal.append_waiting(run_of(1, 1, size=2_000))
        assert journal.last >= 1_200
    assert not log.exists(), "all of it is in the database"


def test_an_sqlite_that_two_connections_can_damage_a_journal_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LEAST_SQLITE", (4, 0, 0))
    with pytest.raises(JournalUnusable, match=r"at least 4\.0\.0 is needed"):
        check_version(tmp_path / "journal.db")
