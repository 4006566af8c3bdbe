"""A journal that a program of before has written, and was killed over, is brought to this version with all that it held; and what this one writes
without a cluster is what the one before it wrote.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import apsw
import msgspec
import pytest

from mooring.events import Kind
from mooring_service.journal.batch import Append, EventFilter
from tests.conftest import ROOT
from tests.service.journal.loaded import INCARNATIONS, WORKERS, Eager, additions
from tests.service.journal.test_crash import texts
from tests.service.journal.test_file import _schema
from tests.service.journal.test_journal import running

BEFORE = {
    "before the rooms": "e0c91a5382e9a3a003956a4d4d418215d6907d22",
    "before the row was the commit": "222a71878e5e720fb491f4d7680c83f412b52533",
}
BEFORE_THE_CLUSTER = "f102e4a2c582525fe196aab20bf34d888169806c"  # the last in which the journal knew of none
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


STILL_MS = 1_790_000_000_000
# The same, by clocks that stand still, so that two programs write the same; it ends in order.
WRITE_STILL = (
    f"import time\ntime.time_ns = lambda: {STILL_MS} * 10**6\ntime.clock_gettime_ns = lambda which: 10**15\n"
    + WRITE.replace("os._exit(0)", "await journal.stop()")
)


def tree(commit: str, folder: Path) -> dict[str, str]:
    """Have the program of a commit in a folder; return the environment in which it is imported."""
    archive = subprocess.run(
        ["git", "archive", commit, "workers", "service"], cwd=ROOT, capture_output=True, check=False
    )
    assert archive.returncode == 0, f"git has no such commit here (a shallow clone?): {archive.stderr.decode()}"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return {**os.environ, "PYTHONPATH": f"{folder}/workers:{folder}/service"}


def write(code: str, path: Path, environment: dict[str, str], appended: list[Append]) -> str:
    """Have a program append to a new journal; return the name of the journal's history."""
    incarnations = [f"{worker}{number}" for worker in WORKERS for number in range(1, INCARNATIONS + 1)]
    written = subprocess.run(
        [sys.executable, "-c", code, str(path), *incarnations],
        env=environment, input=msgspec.msgpack.encode(appended), capture_output=True, check=False,
    )  # fmt: skip
    assert written.returncode == 0, written.stderr.decode()
    return written.stdout.decode().strip()


@pytest.mark.parametrize("program", BEFORE)
async def test_what_a_program_of_before_has_written_goes_on(tmp_path: Path, program: str) -> None:
    environment = tree(BEFORE[program], tmp_path / "before")
    appended = list(itertools.islice(additions(SEED), COUNT))
    epoch = write(WRITE, tmp_path / "journal.db", environment, appended)
    expected = Eager()
    for append in appended:
        expected.add(append)
    for number in range(2):
        async with running(tmp_path) as opened:
            journal, recovered = opened.journal, opened.recovered
            assert expected.equals(recovered, journal.last), f"at start {number}"
            assert journal.epoch == epoch and recovered.set_aside is None
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


def _bytes(path: Path, *without: str) -> bytes:
    """Return the file as its tables and rows alone make it, without tables that came later: pages in their order, no counters, no random name."""
    plain = path.with_suffix(".plain")
    with contextlib.closing(apsw.Connection(str(path))) as file:
        for table in without:
            file.execute(f"DROP TABLE {table}")
        file.execute("UPDATE meta SET value = '' WHERE name = 'epoch'")
        # A thread looks after the log: whether it has done so already is in no program's hands.
        file.execute("UPDATE meta SET value = 0 WHERE name = 'checkpoint_ms' AND value = ?", (STILL_MS,))
        file.execute("VACUUM INTO ?", (str(plain),))
    found = bytearray(plain.read_bytes())
    found[40:44] = found[60:64] = bytes(4)  # how often the schema was changed, and its number
    return bytes(found)


def test_without_a_cluster_the_files_are_byte_for_byte_those_of_the_program_that_knew_of_none(tmp_path: Path) -> None:
    appended = list(itertools.islice(additions(SEED), COUNT))
    environments = {"before": tree(BEFORE_THE_CLUSTER, tmp_path / "program"), "today": dict(os.environ)}
    for name, environment in environments.items():
        (tmp_path / name).mkdir()
        write(WRITE_STILL, tmp_path / name / "journal.db", environment, appended)
    theirs, ours = ({path.name for path in (tmp_path / name).iterdir()} for name in environments)
    assert ours == theirs
    for name in ours - {"journal.db"}:
        assert (tmp_path / "today" / name).read_bytes() == (tmp_path / "before" / name).read_bytes(), name
    # Hooks have their table in the same file since; it is empty here.
    assert _bytes(tmp_path / "today" / "journal.db", "hooks") == _bytes(tmp_path / "before" / "journal.db")
