"""The journal's protocol, on both implementations; and what only the durable one can do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from mooring.errors import JournalUnavailable
from mooring.events import Kind
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append, Batch, EventFilter
from mooring_service.journal.journal import Committed, Journal, Recovered
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import wait_for

EVERYTHING = EventFilter()


class Opened:
    """A journal, and what it has said."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.committed: list[Committed] = []
        self.failures: list[str | None] = []
        self.recovered: Recovered

    async def start(self) -> Opened:
        self.recovered = await self.journal.start(self.committed.extend, self.failures.append)
        return self


OpenJournal = Callable[..., "asyncio.Future[Opened]"]


@pytest.fixture(params=["sqlite", "memory"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    opened = await make(request.param, tmp_path).start()
    yield opened
    await opened.journal.stop()


def make(store: str, folder: Path, **config: object) -> Opened:
    settings = JournalConfig(**config)
    return Opened(MemoryJournal(settings) if store == "memory" else SqliteJournal(folder / "journal.db", settings))


@contextlib.asynccontextmanager
async def running(folder: Path, **config: object) -> AsyncIterator[Opened]:
    """A durable journal that is stopped whatever becomes of the test."""
    opened = await make("sqlite", folder, **config).start()
    try:
        yield opened
    finally:
        await opened.journal.stop()


def run_of(
    connection: int, count: int, *, worker: str = "main", incarnation: str = "", number: int = 0, size: int = 10
) -> Append:
    return Append(
        worker=worker,
        incarnation=incarnation,
        number=number,
        connections=connection.to_bytes(8, "little") * count,
        kinds=bytes([Kind.onMessage]) * count,
        bodies=b"\n".join(b"%d:%b" % (index, b"x" * size) for index in range(count)),
    )


async def read_all(
    journal: Journal, events: EventFilter = EVERYTHING, after: int = 0, limit: int = 100_000
) -> list[int]:
    found: list[int] = []
    while True:
        batches, upto = await journal.read(after, events, limit)
        for batch in batches:
            indices = events.select(batch, after)
            found += [batch.first + index for index in (range(len(batch.kinds)) if indices is None else indices)]
        if upto == after or upto >= journal.last:
            return found
        after = upto


async def test_positions_count_events_from_one_without_holes(journal: Opened) -> None:
    for count in (1, 3, 2):
        await journal.journal.append_waiting(run_of(1, count))
    assert [item.batch.first for item in journal.committed if item.batch] == [1, 2, 5]
    assert (journal.journal.first, journal.journal.last) == (1, 6)
    assert await read_all(journal.journal) == [1, 2, 3, 4, 5, 6]


async def test_what_is_appended_together_is_committed_in_order(journal: Opened) -> None:
    for number in range(1, 101):
        journal.journal.append(run_of(number, 2))
    await journal.journal.append_waiting(Append())
    assert [item.append.connections[0] for item in journal.committed if item.batch] == list(range(1, 101))
    assert journal.journal.queued_bytes == 0


async def test_the_same_number_of_an_incarnation_is_stored_once(journal: Opened) -> None:
    await journal.journal.save_incarnation("a", "main", b"who")
    for number in (1, 2, 2, 1, 3):
        await journal.journal.append_waiting(run_of(1, 1, incarnation="a", number=number))
    assert [item.repeated for item in journal.committed] == [False, False, True, True, False]
    assert journal.journal.last == 3


async def test_a_reader_gets_exactly_what_its_filter_wants(journal: Opened) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    wanted: list[int] = []
    position = 0
    for _ in range(200):
        connection, count, worker = chosen.randint(1, 5), chosen.randint(1, 9), chosen.choice(["a", "b"])
        journal.journal.append(run_of(connection, count, worker=worker))
        if connection in (2, 4) and worker == "a":
            wanted += range(position + 1, position + 1 + count)
        position += count
    await journal.journal.append_waiting(Append())
    events = EventFilter(connections=frozenset((2, 4)), workers=frozenset(("a",)))
    for after in (0, 1, position // 2, position - 1, position):
        expected = [at for at in wanted if at > after]
        assert await read_all(journal.journal, events, after, limit=500) == expected
    one = EventFilter(connections=frozenset((2,)))
    assert set(await read_all(journal.journal, one, limit=500)) <= set(range(1, position + 1))


async def test_ids_are_given_out_once(journal: Opened) -> None:
    blocks = await asyncio.gather(*(journal.journal.allot_ids(10) for _ in range(5)))
    assert sorted(blocks) == [1, 11, 21, 31, 41]


async def test_a_key_is_claimed_once_and_keeps_its_answer(journal: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await journal.journal.claim_key("k", b"f") is None
    running = await journal.journal.claim_key("k", b"f")
    assert running is not None and running.answer is None and running.fingerprint == b"f"
    await journal.journal.answer_key("k", b"done")
    known = await journal.journal.claim_key("k", b"g")
    assert known is not None and known.answer == b"done" and known.fingerprint == b"f"
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock, real=time.clock_gettime_ns: real(clock) + 86_401 * 10**9
    )
    assert await journal.journal.claim_key("k", b"g") is None, "it has aged away"
    await journal.journal.answer_key("k", None)
    assert await journal.journal.claim_key("k", b"g") is None, "it was given up"


async def test_an_answer_that_comes_with_an_append_is_stored_with_it(journal: Opened) -> None:
    await journal.journal.claim_key("k", b"f")
    await journal.journal.append_waiting(Append(answers=[("k", b"connection 7")]))
    known = await journal.journal.claim_key("k", b"f")
    assert known is not None and known.answer == b"connection 7"


@pytest.mark.parametrize("store", ["sqlite", "memory"])
@pytest.mark.parametrize("bound", [{"max_events": 50}, {"max_bytes": 20_000}, {"max_age": 600}])
async def test_old_events_go_above_each_bound_and_the_rest_reads_on(
    store: str, bound: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    opened = await make(store, tmp_path, **bound).start()
    journal = opened.journal
    for _ in range(40):
        await journal.append_waiting(run_of(3, 5, size=200))
    if "max_age" in bound:
        passed = time.clock_gettime_ns
        monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: passed(clock) + 601 * 10**9)
        await journal.append_waiting(Append())  # it is looked behind each commit
        await wait_for(lambda: journal.first == 201, what="all of it is too old")
    await journal.append_waiting(run_of(3, 5, size=200))
    await journal.append_waiting(Append())
    assert 1 < journal.first <= journal.last - 4
    assert journal.last == 205
    if "max_events" in bound:
        assert journal.last - journal.first < 55
    if "max_bytes" in bound:
        assert journal.stats().bytes <= 20_000
    kept = list(range(journal.first, 206))
    for events in (EVERYTHING, EventFilter(connections=frozenset((3,)))):
        assert await read_all(journal, events, after=journal.first - 1) == kept
        assert await read_all(journal, events, after=journal.first - 2) == [], "what is gone is not passed over"
    await journal.stop()


@pytest.mark.parametrize("store", ["sqlite", "memory"])
@pytest.mark.parametrize("bound", [{"max_events": 50}, {"max_bytes": 5_000}])
async def test_what_is_by_itself_above_a_bound_is_kept_until_there_is_more(
    store: str, bound: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    opened = await make(store, tmp_path, **bound).start()
    journal = opened.journal
    await journal.append_waiting(run_of(3, 5, size=200))
    await journal.append_waiting(run_of(3, 60, size=200))
    await wait_for(lambda: journal.first == 6, what="the older ones are dropped")
    for _ in range(5):
        await journal.append_waiting(Append())  # each is followed by a look at what has to go
    assert await read_all(journal, EVERYTHING, after=journal.first - 1) == list(range(6, 66))
    await journal.append_waiting(run_of(3, 5, size=200))
    await wait_for(lambda: journal.first == 66, what="it goes, now that there is more")
    assert await read_all(journal, EVERYTHING, after=journal.first - 1) == list(range(66, 71))
    await journal.stop()


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_a_wall_clock_that_is_ahead_for_a_moment_drops_nothing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    opened = await make(store, tmp_path).start()
    await opened.journal.append_waiting(run_of(3, 5))
    await opened.journal.claim_key("k", b"f")
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda real=time.time_ns: real() + 10 * 86_400 * 10**9)
        for _ in range(3):
            await opened.journal.append_waiting(run_of(3, 5))
        known = await opened.journal.claim_key("k", b"f")
        if store == "sqlite":  # and a service that starts just then
            await opened.journal.stop()
            opened = await make(store, tmp_path).start()
            await opened.journal.append_waiting(run_of(3, 5))
            known = await opened.journal.claim_key("k", b"f")
    assert known is not None and known.fingerprint == b"f", "the key still stands for its answer"
    for _ in range(3):
        await opened.journal.append_waiting(run_of(3, 5))
    assert opened.journal.first == 1
    age_s = opened.journal.stats().oldest_age_s
    assert age_s is not None and 0 <= age_s < 60
    await opened.journal.stop()


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    epoch = journal.epoch
    await journal.save_incarnation("a", "main", b"who")
    created = ConnectionCreated(7, "ws://x/", "main", None, "text", ["Authorization"], 1, True, 10.0, 5.0)
    await journal.append_waiting(
        Append(incarnation="a", created=[created], updates=[ConnectionUpdate(7, "Connecting")])
    )
    item = run_of(7, 3, incarnation="a", number=1)
    await journal.append_waiting(
        Append(
            worker="main",
            incarnation="a",
            number=1,
            connections=item.connections,
            kinds=item.kinds,
            bodies=item.bodies,
            updates=[ConnectionUpdate(7, "Connected", 3)],
        )
    )
    assert await journal.allot_ids(256) == 1
    await journal.claim_key("k", b"f")
    await journal.stop()

    again = await make("sqlite", tmp_path).start()
    journal = again.journal
    assert journal.epoch == epoch
    assert journal.last == 3
    (stored,) = again.recovered.connections
    assert (stored.created.id, stored.update.status, stored.update.seq, stored.last_position) == (7, "Connected", 3, 3)
    assert stored.incarnation == "a"
    assert 0 <= journal.now_ms() - stored.last_event_ms < 60_000
    (incarnation,) = again.recovered.incarnations
    assert (incarnation.worker, incarnation.stored, incarnation.record, incarnation.ended) == ("main", 1, b"who", False)
    claimed = await journal.claim_key("k", b"f")
    assert claimed is not None and claimed.answer is None, "the key is still claimed"
    assert await journal.allot_ids(256) == 257
    await journal.append_waiting(run_of(7, 3, incarnation="a", number=1))
    assert again.committed[-1].repeated
    await journal.stop()


@pytest.mark.parametrize("damage", ["not a database", "a page overwritten"])
async def test_a_corrupt_file_is_set_aside_and_a_new_epoch_begins(tmp_path: Path, damage: str) -> None:
    opened = await make("sqlite", tmp_path).start()
    epoch = opened.journal.epoch
    assert await opened.journal.allot_ids(256) == 1
    for _ in range(50):
        await opened.journal.append_waiting(run_of(1, 20, size=500))
    await opened.journal.stop()
    path = tmp_path / "journal.db"
    data = bytearray(path.read_bytes())
    if damage == "not a database":
        data[:100] = b"\xff" * 100
    else:
        data[4096 * 3 : 4096 * 5] = b"\xa5" * 8192
    path.write_bytes(data)

    again = await make("sqlite", tmp_path).start()
    assert again.recovered.set_aside is not None
    assert Path(again.recovered.set_aside).read_bytes() == data, "kept as it was"
    assert again.journal.epoch != epoch
    assert again.journal.last == 0
    assert await again.journal.allot_ids(256) == 257, "ids are never used again"
    await again.journal.stop()


async def test_a_file_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    await opened.journal.stop()
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    connection.execute("PRAGMA user_version = 99").fetchall()
    connection.close()
    with pytest.raises(JournalUnavailable, match="later mooring"):
        await make("sqlite", tmp_path).start()


async def test_while_it_cannot_be_written_events_wait_and_intents_are_refused(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    await journal.append_waiting(run_of(1, 1))
    # Another connection that holds the write lock is the simplest disk that does not take anything.
    blocker = apsw.Connection(str(tmp_path / "journal.db"))
    blocker.set_busy_timeout(60_000)  # the writer may just be at it
    blocker.execute("BEGIN IMMEDIATE").fetchall()
    intent = journal.append_waiting(Append(), fails_fast=True)
    waiting = journal.append_waiting(run_of(1, 5))
    with pytest.raises(JournalUnavailable):
        await asyncio.wait_for(intent, 60)
    assert journal.failure is not None
    assert not waiting.done()
    blocker.execute("ROLLBACK").fetchall()
    blocker.close()
    committed = await asyncio.wait_for(waiting, 60)
    assert committed.batch is not None and committed.batch.first == 2
    assert journal.failure is None
    assert [failure is None for failure in opened.failures] == [False, True]
    await journal.stop()


async def test_readers_hold_no_transaction_so_the_log_file_stays_small(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    for _ in range(60):
        for _ in range(10):
            journal.append(run_of(1, 100, size=1_000))
        await journal.append_waiting(Append())
        await journal.read(0, EVERYTHING, 10_000)  # a chunk, and not the rest
    assert (tmp_path / "journal.db-wal").stat().st_size < 40 * 1024 * 1024, "checkpoints reset it"
    await journal.stop()


async def test_a_backup_is_complete_while_events_come(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    for _ in range(100):
        await journal.append_waiting(run_of(1, 10))
    copying = asyncio.create_task(journal.backup(str(tmp_path / "copy.db")))
    for _ in range(100):
        await journal.append_waiting(run_of(1, 10))
    await copying
    connection = apsw.Connection(str(tmp_path / "copy.db"))
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    last = connection.execute("SELECT max(last) FROM batches").get
    assert isinstance(last, int) and 1_000 <= last <= 2_000
    connection.close()
    await journal.stop()


def test_the_last_event_of_a_connection_in_a_batch_is_found_across_id_borders() -> None:
    ids = [1 << 8, 1, 1 << 16, 256, 1]
    batch = Batch(
        first=10,
        worker="w",
        connections=b"".join(one.to_bytes(8, "little") for one in ids),
        kinds=bytes([2]) * 5,
        bodies=b"\n" * 4,
        time_ms=0,
    )
    assert [batch.last_of(one) for one in (1, 256, 1 << 16, 7)] == [14, 13, 12, 0]
