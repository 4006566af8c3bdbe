"""How a worker's log is rotated."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.process.log_file import CHECK_S, keep_within, rotate
from tests.conftest import wait_for


def test_the_end_of_each_log_is_kept_up_to_the_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.b.log"
    with path.open("ab") as printing:
        for number in range(4):
            printing.write(b"-" * 1_000 + b"%d" % number)
            printing.flush()
            rotate(path, 100, 2)
            assert path.stat().st_size == 0, "whoever appends goes on at the start"
    kept = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    assert kept == {"a.b.log": b"", "a.b.log.1": b"-" * 99 + b"3", "a.b.log.2": b"-" * 99 + b"2"}
    assert (tmp_path / "a.b.log.1").stat().st_mode & 0o777 == 0o600


@contextlib.asynccontextmanager
async def kept_within(path: Path, max_bytes: int) -> AsyncIterator[tuple[int, int]]:
    """Yield the two descriptors of somebody who prints into a log that is kept."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    printing = os.open(path, flags, 0o600), os.open(path, flags, 0o600)
    keeping = asyncio.create_task(keep_within(path, max_bytes, 2, printing))
    await asyncio.sleep(0)  # it has begun
    try:
        yield printing
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        for descriptor in printing:
            os.close(descriptor)


@pytest.mark.parametrize("how", ["renamed", "removed", "replaced", "folder removed"])
async def test_a_log_that_was_moved_away_is_begun_anew_and_bounded(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "logs" / "main.log"
    path.parent.mkdir()
    async with kept_within(path, 10_000) as printing:
        os.write(printing[0], b"before\n")
        match how:
            case "renamed":
                path.rename(tmp_path / "kept.log")
            case "removed":
                path.unlink()
            case "replaced":  # as logrotate's `create` does
                path.rename(tmp_path / "kept.log")
                path.touch(0o600)
            case _:
                path.unlink()
                path.parent.rmdir()
        await wait_for(lambda: all(path.exists() and os.path.samestat(os.fstat(fd), path.stat()) for fd in printing))
        os.write(printing[0], b"out\n")
        os.write(printing[1], b"err\n")
        assert path.read_bytes() == b"out\nerr\n"
        assert path.stat().st_mode & 0o777 == 0o600
        if how in ("renamed", "replaced"):
            assert (tmp_path / "kept.log").read_bytes() == b"before\n"
        os.write(printing[1], b"-" * 20_000)
        await wait_for(lambda: os.fstat(printing[1]).st_size == 0)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_what_was_turned_elsewhere_stays_there(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    async with kept_within(path, 10_000) as printing:
        with (tmp_path / "own").open("wb") as own:
            os.dup2(own.fileno(), printing[1])
        path.unlink()
        await wait_for(lambda: path.exists() and os.path.samestat(os.fstat(printing[0]), path.stat()))
        assert os.path.samestat(os.fstat(printing[1]), (tmp_path / "own").stat())


async def test_a_log_that_cannot_be_had_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "main.log"
    async with kept_within(path, 10_000):
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
        await wait_for(lambda: caplog.records)
        await asyncio.sleep(3 * CHECK_S)
        assert len(caplog.records) == 1 and "cannot be kept" in caplog.records[0].getMessage()
        assert not (tmp_path / "elsewhere").exists()
        path.unlink()
        await wait_for(path.exists)
