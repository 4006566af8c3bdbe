"""Subscribers, as far as they need no process: what a filter leaves out."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from pathlib import Path

import apsw
import pytest
import uvloop

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed, Gap, Selection, Stopped
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import rounds, wait_for


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


def test_a_deadline_that_is_due_at_once_and_one_before_it_both_end() -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()
        feed = Feed(MemoryJournal(JournalConfig()))
        now = loop.time()
        waiters = [feed.wait(now + late_s) for late_s in (0.0003, 0.0001, 1_000.0)]
        async with asyncio.timeout(60):
            assert [await waiter for waiter in waiters[:2]] == [False, False]
        assert not waiters[2].done()

    uvloop.run(wait())  # as the service does: its handle of such a timer is another one


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


class Shown:
    """Where a stream goes: notes what came, and is ready or not, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self.positions: list[int] = []
        self.pushed = 0
        self.share = 0.7
        self._chance = chance

    @property
    def ready(self) -> bool:
        return self._chance.random() < self.share

    def take(self, items: list[Selection | Gap]) -> None:
        self.pushed += 1
        self.note(items)

    def note(self, items: list[Selection | Gap]) -> None:
        for item in items:
            assert isinstance(item, Selection)
            indices = range(len(item.batch.kinds)) if item.indices is None else item.indices
            self.positions += [item.batch.first + at for at in indices]


@rounds(300, 20_000, "additions")
async def test_what_goes_straight_to_a_sink_and_what_its_stream_takes_is_everything_once_in_order(
    additions: int,
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    journal = MemoryJournal(JournalConfig())
    feed = Feed(journal, ring_bytes=2_000)
    await journal.start(feed.publish, lambda failure: None)
    wanted = EventFilter(kinds=frozenset({Kind.onMessage}))
    sink = Shown(chance)

    async def follow() -> None:
        with feed.subscribe(wanted, "start", "start") as subscription, contextlib.suppress(Stopped):
            while True:
                sink.note(await subscription.next(None, sink=sink) or [])

    following = asyncio.create_task(follow())
    expected: list[int] = []
    for _ in range(additions):
        kinds = bytes(chance.choices((Kind.onMessage, Kind.onOpen), k=chance.randint(1, 5)))
        bodies = b"\n".join([b"{}"] * len(kinds))
        journal.append(Append(worker="w", connections=bytes(8 * len(kinds)), kinds=kinds, bodies=bodies))
        if chance.random() < 0.8:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    await journal.append_waiting(Append())
    everything, _ = await journal.read(0, wanted, 1 << 30)
    for batch in everything:
        expected += [batch.first + at for at, kind in enumerate(batch.kinds) if kind == Kind.onMessage]
    async with asyncio.timeout(60):
        while len(sink.positions) < len(expected):
            await asyncio.sleep(0)
    feed.close()
    await following
    assert sink.positions == expected, f"seed {seed}"
    assert sink.pushed, "nothing went straight"


async def test_a_sink_that_gets_something_has_its_heartbeat_later() -> None:
    journal = MemoryJournal(JournalConfig())
    feed = Feed(journal)
    await journal.start(feed.publish, lambda failure: None)
    sink = Shown(random.Random(0))
    sink.share = 1.0
    with feed.subscribe(EventFilter(), "now", "now") as subscription:
        waiting = asyncio.create_task(subscription.next(60, sink=sink))
        await wait_for(lambda: feed._waiting)
        (due,) = feed._waiting.values()
        await journal.append_waiting(Append(connections=bytes(8), kinds=bytes((Kind.onMessage,)), bodies=b"{}"))
        assert sink.positions == [1]
        assert not waiting.done(), "its stream sleeps on"
        (later,) = feed._waiting.values()
        assert later > due
        feed.close()
        with pytest.raises(Stopped):
            await waiting


async def test_a_sink_that_fails_fails_its_own_stream_and_no_other() -> None:
    class Failing(Shown):
        def take(self, items: list[Selection | Gap]) -> None:
            raise ConnectionError("the peer is gone")

    journal = MemoryJournal(JournalConfig())
    feed = Feed(journal)
    await journal.start(feed.publish, lambda failure: None)
    failing, other = Failing(random.Random(0)), Shown(random.Random(0))
    failing.share = other.share = 1.0
    with feed.subscribe(EventFilter(), "now", "now") as one, feed.subscribe(EventFilter(), "now", "now") as two:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(raised_by(one.next(60, sink=failing)))
            second = group.create_task(raised_by(two.next(60, sink=other)))
            await wait_for(lambda: len(feed._waiting) == 2)
            await journal.append_waiting(Append(connections=bytes(8), kinds=bytes((Kind.onMessage,)), bodies=b"{}"))
            feed.close()
    assert isinstance(first.result(), ConnectionError)
    assert isinstance(second.result(), Stopped)
    assert other.positions == [1]


async def raised_by(waiting: Awaitable[object]) -> Exception | None:
    try:
        await waiting
    except (ConnectionError, Stopped) as exc:
        return exc
    return None
