"""Copies of the journal: one at a time, given up when nobody waits, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from pathlib import Path

import apsw
import pytest

from mooring.errors import Unavailable
from mooring_service.journal.batch import Append
from mooring_service.service import Service
from tests.service.fake_worker import running_service
from tests.service.journal.test_journal import run_of


def _left(service: Service) -> list[str]:
    return sorted(path.name for path in service.state_dir.glob("backup-*"))


async def _fill(service: Service, megabytes: int) -> None:
    for _ in range(megabytes):
        service.journal.append(run_of(1, 10, size=100_000))
    await service.journal.append_waiting(Append())


async def test_a_copy_is_there_as_long_as_it_is_read_and_ours_alone(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        await _fill(service, 1)
        async with service.backups.copy() as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with contextlib.closing(apsw.Connection(str(path))) as copy:
                assert copy.execute("PRAGMA integrity_check").get == "ok"
            with pytest.raises(Unavailable, match="already"):
                async with service.backups.copy():
                    pass
        assert _left(service) == []
        async with service.backups.copy():
            pass


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.005, 0.02, 0.05])
async def test_one_that_nobody_waits_for_any_more_is_given_up_and_gone(tmp_path: Path, after_s: float) -> None:
    """Row 15 of the review: the thread made the file after it had been removed."""
    async with running_service(tmp_path) as service:
        await _fill(service, 40)
        opened = asyncio.Event()

        async def copy() -> None:
            async with service.backups.copy():
                opened.set()
                await asyncio.sleep(60)

        copying = asyncio.create_task(copy())
        await asyncio.sleep(after_s)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        print(f"hung up on after {after_s} s, {'while it was read' if opened.is_set() else 'while it was made'}")
        assert _left(service) == []
        await asyncio.sleep(0.1)
        assert _left(service) == [], "and nobody makes it later"
        async with service.backups.copy():
            pass


async def test_what_a_service_that_was_killed_has_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in ("backup-01234567.db", "backup-01234567.db-journal", "backup-of-mine.tar"):
        (tmp_path / "state" / name).write_text("x")
    async with running_service(tmp_path) as service:
        assert _left(service) == ["backup-of-mine.tar"]
