"""What is known of connections, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from mooring.errors import JournalUnavailable
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service import directory as directories
from mooring_service.config import JournalConfig
from mooring_service.directory import Directory
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed, StoredConnection
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import wait_for
from tests.service.journal.test_journal import run_of


def created(connection: int) -> ConnectionCreated:
    return ConnectionCreated(connection, "ws://x/", "main", None, "text", [], 1, True, 10.0, 5.0)


def ended(connection: int) -> ConnectionUpdate:
    return ConnectionUpdate(connection, "Closed", 2, ended=True)


def test_a_connection_that_has_ended_is_kept_for_its_time_over_a_restart() -> None:
    now = 1_000_000
    directory = Directory(1_000, 60.0, lambda: now)
    directory.recover(
        "e", [StoredConnection(created(n), ended(n), "i", n, now - age_ms) for n, age_ms in ((1, 61_000), (2, 50_000))]
    )
    assert directory.prune() == [1], "its age did not begin anew"
    now += 10_000
    assert directory.prune() == []
    now += 1
    assert directory.prune() == [2]


def test_it_is_the_journals_clock_that_counts() -> None:
    now = 1_000_000
    directory = Directory(1_000, 60.0, lambda: now)
    directory.fold(Committed(Append(created=[created(1)], updates=[ConnectionUpdate(1, "Connected", 1)]), None))
    directory.fold(Committed(Append(updates=[ended(1)]), None))
    now += 60_000
    assert directory.prune() == []
    now += 1
    assert directory.prune() == [1]


async def test_thousands_that_are_no_longer_retained_are_forgotten_in_small_steps_one_behind_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = range(1, 3 * directories.LOOKS + 2)
    directory = Directory(0, 60.0, lambda: 1_000_000)
    directory.fold(Committed(Append(created=[created(n) for n in many], updates=[ended(n) for n in many]), None))
    assert len(directory.prune()) == directories.LOOKS
    journal = SqliteJournal(tmp_path / "journal.db", JournalConfig())
    await journal.start(lambda _: None, lambda _: None)
    monkeypatch.setattr(directories, "PRUNE_INTERVAL_S", 0.1)
    pruning = asyncio.create_task(directories.keep_pruned(directory, journal))
    await wait_for(lambda: directory.url(directories.LOOKS + 1) is None)
    monkeypatch.setattr(directories, "PRUNE_INTERVAL_S", 3_600.0)
    await wait_for(lambda: directory.url(many[-1]) is None)
    pruning.cancel()
    await asyncio.wait({pruning})
    await journal.stop()


async def test_what_is_no_longer_retained_while_the_journal_takes_nothing_is_forgotten_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "PRUNE_INTERVAL_S", 0.01)
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, JournalConfig())
    directory = Directory(0, 60.0, journal.now_ms)
    await journal.start(lambda committed: [directory.fold(one) for one in committed], lambda _: None)
    for connection in (1, 2):
        await journal.append_waiting(Append(created=[created(connection)]))
    await journal.append_waiting(Append(updates=[ended(1)]))
    with contextlib.closing(apsw.Connection(str(path))) as other:
        other.set_busy_timeout(60_000)
        other.execute("BEGIN IMMEDIATE")  # nothing is committed there
        journal.append(run_of(3, 1))
        await wait_for(lambda: journal.failure is not None)
        pruning = asyncio.create_task(directories.keep_pruned(directory, journal))
        await wait_for(lambda: directory.url(1) is None)
        with pytest.raises(JournalUnavailable):
            await journal.append_waiting(Append(), fails_fast=True)  # it was queued behind that
        other.execute("ROLLBACK")
    await journal.append_waiting(Append(updates=[ended(2)]))
    await wait_for(lambda: directory.url(2) is None)
    pruning.cancel()
    await asyncio.wait({pruning})
    await journal.stop()
    again = SqliteJournal(path, JournalConfig())
    recovered = await again.start(lambda _: None, lambda _: None)
    await again.stop()
    assert recovered.connections == []
