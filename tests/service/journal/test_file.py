"""The file of the durable journal: damage that is found late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from mooring.errors import JournalUnavailable
from mooring_service.journal import file
from mooring_service.journal.batch import Append, EventFilter
from tests.conftest import wait_for
from tests.service.journal.test_journal import make, run_of


async def _damaged(folder: Path) -> bytes:
    """Make a journal, and overwrite pages of its record; return what it is now."""
    opened = await make("sqlite", folder).start()
    for _ in range(50):
        await opened.journal.append_waiting(run_of(1, 20, size=500))
    await opened.journal.stop()
    path = folder / "journal.db"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4 * 4096] = b"\xa5" * (4 * 4096)
    path.write_bytes(data)
    return bytes(data)


async def _until(path: Path) -> None:
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("found_by", ["the check behind the start", "a subscriber"])
async def test_damage_that_was_found_late_is_set_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    data = await _damaged(tmp_path)
    finding = tmp_path / "journal.db.damaged"
    # A file whose check takes longer than a start waits for it; so does that of the next start.
    monkeypatch.setattr(file, "_check", lambda connection: False)
    if found_by == "a subscriber":
        monkeypatch.setattr("mooring_service.journal.reader.JournalReader.check", lambda self: None)
    first = await make("sqlite", tmp_path).start()
    assert first.recovered.set_aside is None
    if found_by == "a subscriber":
        with pytest.raises(JournalUnavailable, match="cannot be read"):
            await first.journal.read(0, EventFilter(), 10_000_000)
    await _until(finding)
    await first.journal.stop()
    second = await make("sqlite", tmp_path).start()
    aside = Path(second.recovered.set_aside or "")
    assert aside.read_bytes() == data and (tmp_path / f"{aside.name}.damaged").exists() and not finding.exists()
    assert second.journal.epoch != first.journal.epoch
    await second.journal.append_waiting(run_of(1, 1))
    await second.journal.stop()
    third = await make("sqlite", tmp_path).start()
    assert third.recovered.set_aside is None and third.journal.last == 1, "once"
    await third.journal.stop()


async def test_damage_in_what_a_start_reads_is_set_aside_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await make("sqlite", tmp_path).start()
    for number in range(200):
        await opened.journal.save_incarnation(f"{number:050}", "main", bytes(100))
    await opened.journal.stop()
    path = tmp_path / "journal.db"
    data = bytearray(path.read_bytes())
    data[-4 * 4096 :] = b"\xa5" * (4 * 4096)
    path.write_bytes(data)
    monkeypatch.setattr(file, "_check", lambda connection: False)
    again = await make("sqlite", tmp_path).start()
    assert again.recovered.set_aside is not None and again.recovered.incarnations == []
    await again.journal.stop()


async def test_a_journal_of_the_first_schema_is_brought_to_this_one(tmp_path: Path) -> None:
    old = apsw.Connection(str(tmp_path / "journal.db"))
    old.execute((Path(__file__).parent / "journal_1.sql").read_text())
    old.close()
    opened = await make("sqlite", tmp_path).start()
    journal, recovered = opened.journal, opened.recovered
    assert (journal.epoch, journal.last) == ("33e62fce", 2), "what it held goes on"
    (stored,) = recovered.connections
    assert (stored.created.id, stored.update.status, stored.last_position) == (7, "Connected", 2)
    assert [(one.incarnation, one.ended, one.stands) for one in recovered.incarnations] == [
        ("a", False, False),
        ("b", True, False),
    ]
    assert recovered.asks == []
    committed = await journal.append_waiting(Append(incarnation="a", number=2, asks=[b"x", b"y"]))
    assert committed.first_ask == 1
    assert await journal.allot_ids(256) == 257
    await journal.stop()
    new, old_way = (_schema(folder) for folder in (await _new(tmp_path / "new"), tmp_path))
    assert old_way == new, "whichever way it came"


async def _new(folder: Path) -> Path:
    folder.mkdir()
    opened = await make("sqlite", folder).start()
    await opened.journal.stop()
    return folder


def _schema(folder: Path) -> tuple[list[object], set[str]]:
    connection = apsw.Connection(str(folder / "journal.db"))
    try:
        tables = connection.execute("SELECT type, name FROM sqlite_schema ORDER BY name").fetchall()
        columns = [connection.execute(f"PRAGMA table_info({name})").fetchall() for kind, name in tables]
        names = {name for (name,) in connection.execute("SELECT name FROM meta WHERE name <> 'next_id'")}
        return [*tables, *columns], names
    finally:
        connection.close()


async def test_what_was_asked_is_there_after_a_restart_until_it_is_done_and_numbers_only_grow(tmp_path: Path) -> None:
    opened = await make("sqlite", tmp_path).start()
    for number, asks in ((1, [b"one", b"two"]), (2, [b"three"])):
        opened.journal.append(Append(worker="w", incarnation="a", number=number, asks=asks))
    await opened.journal.append_waiting(Append(worker="w", incarnation="a", number=2, asks=[b"again"]))
    await opened.journal.append_waiting(Append(asks_done=[2]))
    await opened.journal.stop()
    again = await make("sqlite", tmp_path).start()
    assert [(ask.number, ask.worker, ask.ask) for ask in again.recovered.asks] == [(1, "w", b"one"), (3, "w", b"three")]
    await again.journal.append_waiting(Append(asks_done=[1, 3]))
    await again.journal.stop()
    third = await make("sqlite", tmp_path).start()
    assert third.recovered.asks == []
    assert (await third.journal.append_waiting(Append(worker="w", asks=[b"four"]))).first_ask == 4
    await third.journal.stop()


async def test_of_one_worker_one_process_stands_and_what_stands_is_never_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.journal.derived.ENDED_INCARNATIONS", 2)
    opened = await make("sqlite", tmp_path).start()
    journal = opened.journal
    for incarnation, stands in (("a", True), ("b", True), ("c", False), ("d", False)):
        worker = "main" if stands else "other"
        await journal.save_incarnation(incarnation, worker, b"", ended=True, stands=stands)
    await journal.append_waiting(Append(ended="d"))
    await journal.stop()
    again = await make("sqlite", tmp_path).start()
    assert [(one.incarnation, one.stands) for one in again.recovered.incarnations] == [("b", True)]
    await again.journal.save_incarnation("e", "main", b"")
    await again.journal.stop()
    third = await make("sqlite", tmp_path).start()
    assert not any(one.stands for one in third.recovered.incarnations), "another process has begun"
    await third.journal.stop()


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_answers_of_keys_take_no_more_than_their_share_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    opened = await make(store, tmp_path, max_bytes=400_000).start()
    journal = opened.journal
    assert await journal.claim_key("runs", b"f") is None
    for number in range(20):
        await journal.claim_key(f"k{number}", b"f")
        await journal.answer_key(f"k{number}", bytes(10_000))
        await asyncio.sleep(0.002)  # their age is told in milliseconds
    await journal.append_waiting(run_of(1, 32, size=10_000))
    await journal.append_waiting(run_of(1, 1))
    await wait_for(lambda: journal.first == 33, what="they count: less is left for events")
    assert journal.stats().bytes < 300_000
    kept = [await journal.claim_key(f"k{number}", b"f") is not None for number in reversed(range(20))]
    assert kept == [True] * kept.count(True) + [False] * kept.count(False)
    assert 7 <= kept.count(True) <= 10
    running = await journal.claim_key("runs", b"f")
    assert running is not None and running.answer is None, "what runs is not forgotten"
    await journal.stop()
