"""What is known of connections, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service import service
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


async def test_that_ended_connections_cannot_be_forgotten_now_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "PRUNE_INTERVAL_S", 0.01)
    journal = SqliteJournal(tmp_path / "journal.db", JournalConfig())
    await journal.start(lambda _: None, lambda _: None)
    directory, tries = Directory(0, 60.0, journal.now_ms), 0
    forget = journal.forget_connections

    async def counted(ids: list[int]) -> None:
        nonlocal tries
        tries += 1
        await forget(ids)

    journal.forget_connections = counted  # type: ignore[method-assign]  # of this one object
    pruning = asyncio.create_task(service._prune(directory, journal))

    async def end_three() -> None:
        for connection in range(tries + 1, tries + 4):
            before = tries
            directory.fold(Committed(Append(created=[created(connection)], updates=[ended(connection)]), None))
            await wait_for(lambda: tries > before)  # noqa: B023

    with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as other:
        other.set_busy_timeout(60_000)
        for _ in range(2):
            other.execute("BEGIN IMMEDIATE")  # nothing is committed there
            journal.append(run_of(1, 1))
            await wait_for(lambda: journal.failure is not None)
            await end_three()
            other.execute("ROLLBACK")
            await wait_for(lambda: journal.failure is None)
            await end_three()
    pruning.cancel()
    await asyncio.wait({pruning})
    await journal.stop()
    told = [record for record in caplog.records if "cannot be forgotten" in record.getMessage()]
    assert len(told) == 2, "and again behind one that could be"
