"""A journal that a program of before has written, and was killed over, is brought to this version with all that it held."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest

from mooring.events import Kind
from mooring_service.journal.batch import EventFilter
from tests.conftest import ROOT
from tests.service.journal.loaded import INCARNATIONS, WORKERS, Eager, additions
from tests.service.journal.test_crash import texts
from tests.service.journal.test_file import _schema
from tests.service.journal.test_journal import running

BEFORE = {
    "before the rooms": "e0c91a5382e9a3a003956a4d4d418215d6907d22",
    "before the row was the commit": "222a71878e5e720fb491f4d7680c83f412b52533",
}
COUNT = 400
SEED = 7

# Runs in that program: appends what is on standard input, and dies with nothing closed.
WRITE = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from mooring_service.config import JournalConfig
try:
    from mooring_service.journal.sqlite import SqliteJournal
    from mooring_service.journal.batch import Append
except ImportError:
    from mooring_service.journal_sqlite import SqliteJournal
    from mooring_service.batch import Append

async def main():
    journal = SqliteJournal(Path(sys.argv[1]), JournalConfig())
    await journal.start(lambda committed: None, lambda failure: print(failure, file=sys.stderr))
    for incarnation in sys.argv[2:]:
        await journal.save_incarnation(incarnation, incarnation[0], b"record")
    for append in msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[Append]):
        await journal.append_waiting(append)
    print(journal.epoch, flush=True)
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("program", BEFORE)
async def test_what_a_program_of_before_has_written_goes_on(tmp_path: Path, program: str) -> None:
    archive = subprocess.run(
        ["git", "archive", BEFORE[program], "workers", "service"], cwd=ROOT, capture_output=True, check=False
    )
    assert archive.returncode == 0, f"git has no such commit here (a shallow clone?): {archive.stderr.decode()}"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tmp_path / "before", filter="data")
    appended = list(itertools.islice(additions(SEED), COUNT))
    incarnations = [f"{worker}{number}" for worker in WORKERS for number in range(1, INCARNATIONS + 1)]
    path = tmp_path / "journal.db"
    written = subprocess.run(
        [sys.executable, "-c", WRITE, str(path), *incarnations],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}/before/workers:{tmp_path}/before/service"},
        input=msgspec.msgpack.encode(appended),
        capture_output=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr.decode()
    expected = Eager()
    for append in appended:
        expected.add(append)
    for number in range(2):
        async with running(tmp_path) as opened:
            journal, recovered = opened.journal, opened.recovered
            assert expected.equals(recovered, journal.last), f"at start {number}"
            assert journal.epoch == written.stdout.decode().strip() and recovered.set_aside is None
            assert [event[3] for event in await texts(journal, EventFilter(), 1 << 40)] == [
                event[3] for event in expected.events
            ]
            for one in itertools.islice(expected.connections, 0, None, 9):
                wanted = [position for position, event in enumerate(expected.events, 1) if event[1] == one]
                found = await texts(journal, EventFilter(connections=frozenset({one})), 3_000)
                assert [position for position, *_ in found] == wanted
            ends = await texts(journal, EventFilter(kinds=frozenset({Kind.onTerminate})), 3_000)
            assert len(ends) == sum(event[2] == Kind.onTerminate for event in expected.events)
            for append in itertools.islice(additions(SEED), expected.count, expected.count + 100):
                await journal.append_waiting(append)
                expected.add(append)
    new = tmp_path / "new"
    new.mkdir()
    async with running(new):
        pass
    assert _schema(tmp_path) == _schema(new), "whichever way it came"
