"""What a cluster has of a journal, and the journal of its log: numbers without holes, positions with them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed, Gap, Selection
from mooring_service.journal import replica as replicas
from mooring_service.journal.addition import decode_addition
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Committed
from mooring_service.journal.replica import Replica
from mooring_service.journal.sparse import SparseJournal
from mooring_service.journal.sqlite import SqliteJournal

STEP = 10**6


def events(worker: str, *bodies: bytes, at: int = 0, connection: int = 7) -> Append:
    count = len(bodies)
    return Append(
        worker=worker,
        connections=connection.to_bytes(8, "little") * count,
        kinds=bytes((Kind.onMessage,)) * count,
        bodies=b"\n".join(bodies),
        at=at,
    )


@contextlib.asynccontextmanager
async def replicating(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path, JournalConfig(), replica=Replica(path))
    await journal.start(lambda _: None, lambda _: None)
    try:
        yield journal
    finally:
        await journal.stop()


@contextlib.asynccontextmanager
async def sparse(
    path: Path, committed: list[Committed] | None = None, **config: object
) -> AsyncIterator[SparseJournal]:
    journal = SparseJournal(path, JournalConfig(**config))  # type: ignore[arg-type]
    await journal.start(committed.extend if committed is not None else lambda _: None, lambda _: None)
    try:
        yield journal
    finally:
        await journal.stop()


def bodies_of(additions: list[bytes]) -> list[bytes]:
    return [decode_addition(one).bodies for one in additions]


@pytest.mark.parametrize("memory", [1, replicas.MEMORY_BYTES])
async def test_each_addition_is_there_once_in_its_order_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(replicas, "MEMORY_BYTES", memory)
    path = tmp_path / "journal.db"
    async with replicating(path) as journal:
        for number in range(1, 6):
            journal.append(events("main", b"%d" % number))
        again = Append(worker="main", incarnation="i", number=1, connections=bytes(8), kinds=bytes((1,)), bodies=b"6")
        await journal.save_incarnation("i", "main", b"")
        await journal.append_waiting(again)
        await journal.append_waiting(again)
        await journal.append_waiting(Append(asks_done=[9]))
        replica = journal.replica
        assert replica is not None
        assert replica.last == 6
        assert bodies_of(await replica.read(0, 1 << 20)) == [b"%d" % number for number in range(1, 7)]
        assert bodies_of(await replica.read(4, 1)) == [b"5"]
        assert await replica.read(6, 1) == []
        assert await replica.unreplicated(6) == (0, 0)
        assert await replica.unreplicated(0) == (replica.total_bytes, 6)
        await journal.save_cluster(b"state", 3)
    async with replicating(path) as journal:
        replica = journal.replica
        assert replica is not None
        assert replica.state == b"state"
        assert bodies_of(await replica.read(2, 1 << 20)) == [b"3", b"4", b"5", b"6"]
        await journal.append_waiting(events("main", b"7"))
        assert bodies_of(await replica.read(5, 1 << 20)) == [b"6", b"7"]


async def test_all_that_was_acknowledged_long_ago_goes_however_much_it_is_but_never_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "PRUNE_ROWS", 10)
    monkeypatch.setattr(replicas, "KEPT_BYTES", 0)
    path = tmp_path / "journal.db"

    def numbers() -> list[int]:
        with contextlib.closing(apsw.Connection(str(path))) as file:
            return [rn for (rn,) in file.execute("SELECT rn FROM replica ORDER BY rn")]

    async with replicating(path) as journal:
        for number in range(35):
            journal.append(events("main", b"%02d" % number))
        await journal.save_cluster(b"state", 30)
        assert numbers() == [*range(1, 36)], "they are young"
        monkeypatch.setattr(replicas, "KEPT_MS", -60_000)
        replica = journal.replica
        assert replica is not None
        behind = await replica.unreplicated(30)
        assert behind == (replica.total_bytes * 5 // 35, 5)
        while await journal.save_cluster(b"state", 30):
            assert numbers()[-6:] == [*range(30, 36)]
        assert numbers() == [*range(30, 36)]
        assert await replica.unreplicated(30) == behind, "it is counted from the last that was acknowledged"
        assert await replica.unreplicated(0) == (replica.total_bytes * 6 // 35, 5), "what is gone does not wait"
        await journal.save_cluster(b"state", 35)
        assert numbers() == [35]
    async with replicating(path) as journal:
        await journal.append_waiting(events("main", b"next"))
        assert numbers() == [35, 36]


async def test_a_journal_without_a_cluster_is_the_file_that_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, JournalConfig())
    await journal.start(lambda _: None, lambda _: None)
    await journal.append_waiting(events("main", b"1"))
    await journal.stop()
    with contextlib.closing(apsw.Connection(str(path))) as file:
        names = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        meta = {name for (name,) in file.execute("SELECT name FROM meta")}
    assert not {"replica", "folded"} & names
    assert not {"first", "applied", "cluster"} & meta


async def test_positions_with_holes_are_read_and_followed_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    committed: list[Committed] = []
    async with sparse(path, committed) as journal:
        feed = Feed(journal)
        for seq in (3, 5, 9):
            first, second = events("a", b"%d" % seq, at=seq * STEP), events("b", b"%d+" % seq)
            await journal.fold([first, second], seq, {("node", "a"): b"%d" % seq})
        assert [one.first for one in committed] == [
            3 * STEP,
            3 * STEP + 1,
            5 * STEP,
            5 * STEP + 1,
            9 * STEP,
            9 * STEP + 1,
        ]
        feed.publish(committed)
        assert (journal.first, journal.last) == (1, 9 * STEP + 1)
        for feeding in (feed, Feed(journal)):  # from the ring, from the file
            for after, wanted in ((0, 6), (3 * STEP, 5), (4 * STEP, 4), (5 * STEP + 1, 2), (9 * STEP + 1, 0)):
                with feeding.subscribe(EventFilter(), f"{journal.epoch}-{after}", "start") as subscription:
                    found = []
                    while subscription.cursor < feeding.last:
                        for one in await subscription.take():
                            assert isinstance(one, Selection)
                            found += (
                                one.batch.bodies
                                if one.indices is None
                                else [one.batch.bodies[at] for at in one.indices]
                            )
                    assert len(found) == wanted, after
        with feed.subscribe(EventFilter(), "start", "start") as subscription:
            assert not isinstance((await subscription.take())[0], Gap)
    async with sparse(path) as journal:
        assert journal.folded == (9, {("node", "a"): b"9"})
        assert (journal.first, journal.last) == (1, 9 * STEP + 1)


async def test_what_was_dropped_is_a_gap_and_what_never_was_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    async with sparse(path, max_bytes=300_000) as journal:
        for seq in range(2, 12, 2):
            await journal.fold([events("a", b"x" * 100_000, at=seq * STEP)], seq, {})
        while journal.first == 1:
            await journal.fold([], 12, {})
        first = journal.first
        assert first % STEP == 1, "one behind the newest that was dropped"
        found, upto = await journal.read(first - 1, EventFilter(), 1 << 20)
        assert found[0].first == (first // STEP + 2) * STEP
        assert await journal.read(first - 2, EventFilter(), 1 << 20) == ([], first - 2)
        assert upto == journal.last
        with Feed(journal).subscribe(EventFilter(), f"{journal.epoch}-{first - 1}", "start") as subscription:
            assert not isinstance((await subscription.take())[0], Gap)
    async with sparse(path, max_bytes=300_000) as journal:
        assert journal.first >= first
