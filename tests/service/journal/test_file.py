"""The file of the durable journal: damage that is found late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.errors import JournalUnavailable
from mooring_service.journal import file
from mooring_service.journal.batch import EventFilter
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
    async with asyncio.timeout(5):
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
