"""What somebody relies on is on the disk, with its name, when that is said."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mooring_api.commands.cursor_file import CursorFile
from mooring_api.rest.access import load_token
from mooring_service.hooks.store import HookStore
from mooring_service.journal.file import restore
from tests.command_line import mooring
from tests.conftest import RunningService
from tests.service.journal.test_journal import running

FSYNC = """
import os
real = os.fsync
def fsync(fd):
    path = os.readlink(f"/proc/self/fd/{fd}")
    with open(os.environ["SYNCED"], "a") as file:
        print(path, file=file)
    if path == os.environ["FAILS"]:
        raise OSError(5, "Input/output error")
    real(fd)
os.fsync = fsync
"""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The names in each folder at the moment in which it was synced."""
    found: list[set[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.is_dir():
            found.append({one.name for one in path.iterdir()})
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


async def _definitions(folder: Path) -> None:
    await HookStore(folder / "hooks.json").save({})


async def _ids(folder: Path) -> None:
    async with running(folder, level="power") as opened:
        await opened.journal.allot_ids(10)


async def _token(folder: Path) -> None:
    load_token(folder)


async def _cursor(folder: Path) -> None:
    CursorFile(folder / "cursor", synced=True).write("e-1")


async def _restored(folder: Path) -> None:
    async with running(folder) as opened:
        await opened.journal.backup(str(folder / "copy.db"))
    restore(folder / "copy.db", folder / "restored.db")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (_definitions, "hooks.json"),
        (_ids, "journal.ids"),
        (_token, "token"),
        (_cursor, "cursor"),
        (_restored, "restored.db"),
    ],
)
async def test_a_name_is_on_the_disk_when_it_is_relied_on(
    tmp_path: Path, synced: list[set[str]], make: Callable[[Path], Awaitable[None]], name: str
) -> None:
    await make(tmp_path)
    assert synced and name in synced[-1]


async def test_a_backup_is_on_the_disk_with_its_name_when_the_command_says_so(
    shared: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FSYNC)
    (folder := tmp_path / "copies").mkdir()
    log, copy = tmp_path / "synced", folder / "copy.db"
    env = {"PYTHONPATH": str(tmp_path), "SYNCED": str(log), "FAILS": ""}
    assert (await mooring(shared, "backup", str(copy), env=env)).code == 0
    assert log.read_text().splitlines() == [str(copy), str(folder)]
    copy.unlink()
    for fails in (copy, folder):
        ran = await mooring(shared, "backup", str(copy), env={**env, "FAILS": str(fails)})
        assert ran.code == 1 and "Input/output error" in ran.errors and not copy.exists(), ran
