"""Subscribers, as far as they need no process: what a filter leaves out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from pathlib import Path

import apsw
import pytest

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed, Selection
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import rounds


async def test_a_search_that_finds_nothing_says_so_in_time_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, JournalConfig())
    await journal.start(lambda committed: None, lambda failure: None)
    kinds = bytes((Kind.onMessage,))
    for _ in range(100):
        await journal.append_waiting(Append(worker="w", connections=bytes(8), kinds=kinds, bodies=b"x" * 131_072))
    await journal.stop()
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        # As if the first schema had written it: there is no index of kinds.
        connection.execute("DELETE FROM segments").fetchall()
        connection.execute("INSERT INTO segments VALUES (100, 0)").fetchall()
    journal = SqliteJournal(path, JournalConfig())
    feed = Feed(journal)
    await journal.start(feed.publish, lambda failure: None)
    with feed.subscribe(EventFilter(kinds=frozenset({Kind.onError})), "start", "start") as subscription:
        places = [subscription.cursor]
        while subscription.cursor < feed.last:
            assert await subscription.next(0) == []
            places.append(subscription.cursor)
        assert len(places) > 2, "a heartbeat is due while it still searches"
        assert places == sorted(set(places))
    await journal.stop()


async def test_who_yields_is_woken_behind_all_others() -> None:
    feed = Feed(MemoryJournal(JournalConfig()))
    woken: list[str] = []

    async def wait(name: str, *, yields: bool) -> None:
        waiter = feed.wait(float("inf"), yields=yields)
        await waiter
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        for name in ("hook 1", "stream 1", "hook 2", "stream 2"):
            group.create_task(wait(name, yields=name.startswith("hook")))
        await asyncio.sleep(0)
        feed.wake()
    assert woken == ["stream 1", "stream 2", "hook 1", "hook 2"]


async def test_those_who_yield_are_woken_one_in_a_pass_of_the_loop() -> None:
    feed, loop = Feed(MemoryJournal(JournalConfig())), asyncio.get_running_loop()
    seen: list[str] = []

    async def wait(name: str) -> None:
        await feed.wait(float("inf"), yields=True)
        seen.append(name)

    def each_pass() -> None:
        seen.append("what came meanwhile")
        if len(seen) < 20:
            loop.call_soon(each_pass)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(wait(f"hook {number}"))
        await asyncio.sleep(0)
        feed.wake()
        loop.call_soon(each_pass)
    hooks = [at for at, one in enumerate(seen) if one.startswith("hook")]
    assert [seen[at] for at in hooks] == ["hook 0", "hook 1", "hook 2"]
    assert all("what came meanwhile" in seen[at:until] for at, until in itertools.pairwise(hooks))


@rounds(1, 20)
async def test_pages_from_the_start_begin_with_an_event_that_is_kept_while_the_oldest_are_dropped(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    for seed in range(rounds):
        print(f"seed {seed}")
        chosen = random.Random(seed)
        journal = SqliteJournal(tmp_path / f"{seed}.db", JournalConfig(max_events=100))
        feed = Feed(journal, ring_bytes=2_000)  # most pages are read from the file
        await journal.start(feed.publish, lambda failure: None)
        await journal.append_waiting(messages(1))
        done = asyncio.Event()

        async def read_pages(journal: SqliteJournal = journal, feed: Feed = feed, done: asyncio.Event = done) -> int:
            pages = 0
            while not done.is_set():
                first = journal.first
                with feed.subscribe(EventFilter(), "start", "start", brief=True) as subscription:
                    (oldest, *_) = await subscription.take_more()
                assert isinstance(oldest, Selection), "there is no gap before what is the oldest"
                assert first <= oldest.batch.first
                assert oldest.batch.last <= subscription.cursor <= feed.last
                pages += 1
                await asyncio.sleep(0)
            return pages

        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(read_pages()) for _ in range(2)]
            for _ in range(400):
                journal.append(messages(chosen.choice((1, 5, 40, 60, 101))))
                if chosen.random() < 0.5:
                    await asyncio.sleep(chosen.random() * 0.003)
            done.set()
        assert all(task.result() for task in reading)
        await journal.stop()


def messages(count: int) -> Append:
    return Append(
        worker="w",
        connections=bytes(8) * count,
        kinds=bytes((Kind.onMessage,)) * count,
        bodies=b"\n".join([b"{}"] * count),
    )
