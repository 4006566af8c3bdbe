"""The writer of the durable journal: what is dropped without being asked, what it leaves out, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from pathlib import Path

import apsw
import pytest

from mooring.errors import JournalUnavailable
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.config import JournalConfig
from mooring_service.journal import pace, upkeep, writer
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Committed, Journal
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.replica import Replica
from mooring_service.journal.retention import Marks
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import wait_for
from tests.service.journal.test_journal import make, run_of, running


class MistakeOfAListener(Exception):
    """What it raises."""


@pytest.mark.parametrize("store", ["replica", "sqlite", "memory"])
async def test_a_listeners_mistake_leaves_nobody_waiting(tmp_path: Path, store: str) -> None:
    path = tmp_path / "journal.db"
    replica = Replica(path) if store == "replica" else None
    config = JournalConfig()
    journal: Journal = MemoryJournal(config) if store == "memory" else SqliteJournal(path, config, replica=replica)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))

    def mistaken(committed: list[Committed]) -> None:
        raise MistakeOfAListener

    await journal.start(mistaken, lambda failure: None)
    async with asyncio.timeout(60):
        for position in (1, 2):
            assert (await journal.append_waiting(run_of(1, 1))).first == position
        if replica is not None:
            await replica.committed.wait()
    assert [type(one) for one in told] == [MistakeOfAListener] * 2, "the loop tells of it"
    await journal.stop()


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_what_has_aged_goes_although_nothing_is_written(tmp_path: Path, store: str) -> None:
    opened = await make(store, tmp_path, max_age=0.2).start()
    journal = opened.journal
    for _ in range(3):
        await journal.append_waiting(run_of(1, 5))
    assert journal.last == 15
    commits = journal.stats().commits
    async with asyncio.timeout(60):
        while journal.first <= journal.last:
            await asyncio.sleep(0.02)
    assert (await journal.read(0, EventFilter(), 1_000_000))[0] == []
    await asyncio.sleep(0.3)
    assert journal.stats().commits <= commits + 3, "then it rests"
    await journal.stop()


# A mistake of ours about one addition: columns that do not fit, a number beyond SQLite's, a job that is wrong.
WRONG = {
    "columns of three bytes": Append(worker="w", connections=b"123", kinds=b"\x02", bodies=b"x"),
    "an id beyond 64 bits": Append(worker="w", updates=[ConnectionUpdate(2**63, "Connected", 1)]),
    "one of many": Append(worker="w", updates=[ConnectionUpdate(2**63 - at, "Connected", 1) for at in range(20)]),
    "of one that is new": Append(worker="w", created=[ConnectionCreated(2**63, "ws://a", "w", None, "text", [], 0)]),
    "a type that SQLite refuses": Append(worker=b"w", connections=bytes(8), kinds=b"\x02", bodies=b"x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_can_never_be_written_keeps_nothing_else_waiting(tmp_path: Path, what: str) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    before = [journal.append_waiting(run_of(1, 1)) for _ in range(5)]
    wrong = journal.append_waiting(WRONG[what], fails_fast=True)
    after = [journal.append_waiting(run_of(1, 1)) for _ in range(5)]
    async with asyncio.timeout(60):
        for written in before + after:
            await written
        with pytest.raises(JournalUnavailable, match="cannot be stored"):
            await wrong
    assert [item.first for item in opened.committed if item.batch] == list(range(1, 11)), "in order, without a hole"
    assert opened.failures == [] and journal.queued_bytes == 0
    await journal.stop()


async def test_a_numbered_frame_that_can_never_be_written_is_not_sent_again_for_ever(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    await opened.journal.save_incarnation("a", "main", b"")
    wrong = Append(worker="main", incarnation="a", number=1, connections=b"123", kinds=b"\x02", bodies=b"x")
    opened.journal.append(wrong)
    await opened.journal.append_waiting(run_of(1, 1, incarnation="a", number=2))
    assert [(item.append.number, item.repeated) for item in opened.committed] == [(1, True), (2, False)]
    await opened.journal.stop()


async def test_a_writer_that_dies_says_so_and_answers_everybody(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", JournalConfig())
    committed: list[Committed] = []
    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await journal.start(committed.extend, lambda failure: None, died.set_result)

    def exits(connection: apsw.Connection) -> None:
        sys.exit("as an interpreter that runs out of everything")

    under_it = asyncio.create_task(journal._do(exits))
    await asyncio.sleep(0)
    with_it = journal.append_waiting(run_of(1, 1))
    async with asyncio.timeout(60):
        assert "writer has failed" in await died
        for waiting in (under_it, with_it, journal.append_waiting(run_of(1, 1))):
            with pytest.raises(JournalUnavailable):
                await waiting
    assert journal.failure is not None and "internal error" in journal.failure
    await journal.stop()


async def test_what_is_known_to_follow_is_waited_for_a_moment_and_no_longer_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "GATHER_S", 600.0)  # so that a busy machine is not late
    async with running(tmp_path) as opened:
        journal = opened.journal
        await journal.append_waiting(run_of(1, 1))
        commits = journal.stats().commits
        for _ in range(20):
            journal.append(run_of(1, 1), others_follow=True)
            await asyncio.sleep(0.001)
            await journal.append_waiting(run_of(2, 1))
        assert journal.stats().commits - commits == 20, "two are one commit"
        monkeypatch.setattr(pace, "GATHER_S", 0.05)
        journal.append(run_of(3, 1), others_follow=True)  # nothing does
        async with asyncio.timeout(60):
            while journal.last < 42:
                await asyncio.sleep(0.001)


async def test_what_a_request_waits_for_is_committed_at_once_whatever_is_known_to_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "GATHER_S", 600.0)
    async with running(tmp_path) as opened:
        journal = opened.journal
        for first in (0, 2):
            journal.append(run_of(1, 1), others_follow=True)
            await asyncio.sleep(0.01)
            assert journal.last == first, "it waits for what follows"
            journal.append(run_of(2, 1), others_follow=True)
            journal.hurry()
            async with asyncio.timeout(60):
                while journal.last < first + 2:
                    await asyncio.sleep(0.001)
        journal.hurry()  # nothing is queued
        journal.append(run_of(3, 1), others_follow=True)
        await asyncio.sleep(0.01)
        assert journal.last == 4, "what comes later is not hurried by it"


async def test_an_upkeep_that_fails_again_and_again_is_told_when_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "UPKEEP_RETRY_S", 0.01)
    monkeypatch.setattr(upkeep.Upkeep, "due_s", lambda upkeep, marks: -math.inf)  # there is always something to do
    step, mistake, steps = upkeep.Upkeep.step, "", 0

    def mistaken(upkeep: upkeep.Upkeep, connection: apsw.Connection, marks: Marks) -> Marks:
        nonlocal steps
        steps += 1
        if mistake:
            raise ValueError(mistake)
        return step(upkeep, connection, marks)

    monkeypatch.setattr(upkeep.Upkeep, "step", mistaken)
    opened = await make("sqlite", tmp_path).start()
    for now in ("first", "second", "", "second"):
        mistake, before = now, steps
        await wait_for(lambda: steps > before + 3, 60)  # noqa: B023
    await opened.journal.stop()
    told = [record for record in caplog.records if "upkeep has failed" in record.getMessage()]
    texts = [str(record.exc_info[1]) for record in told if record.exc_info]
    assert texts == ["first", "second", "second"]


@pytest.mark.parametrize("additions", [0, 2])
async def test_a_stop_while_nothing_can_be_written_tells_how_many_additions_are_lost_and_counts_no_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, additions: int
) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    with contextlib.closing(apsw.Connection(str(tmp_path / "journal.db"))) as other:
        other.set_busy_timeout(60_000)
        other.execute("BEGIN IMMEDIATE")  # nothing is committed there
        waiting: list[asyncio.Future[object]] = [asyncio.ensure_future(journal.forget_hook("gone"))]
        await asyncio.sleep(0)
        waiting += [journal.append_waiting(run_of(1, 1)) for _ in range(additions)]
        await wait_for(lambda: journal.failure is not None, 60)
        await journal.stop()
    for one in waiting:
        with pytest.raises(JournalUnavailable):
            await asyncio.wait_for(one, 60)
    told = [record.getMessage() for record in caplog.records if "journal stops with" in record.getMessage()]
    assert [text.partition(":")[0] for text in told] == (
        [f"the journal stops with {additions} additions not written"] if additions else []
    )
