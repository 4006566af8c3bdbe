"""What a crash leaves at any moment is what it would be if each commit had been written to all tables at once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import EventFilter
from mooring_service.journal.journal import Journal
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import ROOT, rounds, wait_for
from tests.service.journal import loaded
from tests.service.journal.test_journal import Opened

ALL = 1 << 40


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that is done a little at a time happens all the time in this test, too."""
    modules = (loaded.derived, loaded.compaction, loaded.checkpoints, loaded.writer)
    before = [{name: value for name, value in vars(module).items() if name.isupper()} for module in modules]
    loaded.often()
    yield
    for module, values in zip(modules, before, strict=True):
        for name, value in values.items():
            setattr(module, name, value)


def acked(folder: Path) -> int:
    path = folder / "acked"
    return int(path.read_bytes() or b"0") if path.exists() else 0


async def texts(journal: Journal, events: EventFilter, limit: int) -> list[tuple[int, int, int, bytes]]:
    """Read all that is kept, as position, connection, kind, body."""
    found: list[tuple[int, int, int, bytes]] = []
    after = journal.first - 1
    while True:
        batches, upto = await journal.read(after, events, limit)
        for batch in batches:
            indices = events.select(batch, after)
            for at in range(len(batch.kinds)) if indices is None else indices:
                found.append((batch.first + at, batch.connections[at], batch.kinds[at], batch.bodies[at]))
        if upto == after or upto >= journal.last:
            return found
        after = upto


async def check(folder: Path, seed: int, least: int, max_events: int) -> None:
    """Open what is in `folder`, and compare all of it with what was added."""
    opened = await Opened(SqliteJournal(folder / "journal.db", JournalConfig(max_events=max_events))).start()
    journal = opened.journal
    expected = loaded.Eager()
    for append in loaded.additions(seed):
        if expected.count >= least and expected.equals(opened.recovered, journal.last):
            break
        expected.add(append)
        assert len(expected.events) <= journal.last or expected.count <= least, "no prefix of what was added"
    await wait_for(lambda: journal.last - journal.first < max_events, what="the oldest is dropped")
    chosen = random.Random(seed)
    filters = [EventFilter(), EventFilter(workers=frozenset("b")), EventFilter(kinds=frozenset((Kind.onTerminate,)))]
    ids = [chosen.choice(list(expected.connections)) for _ in range(4)]
    filters += [EventFilter(connections=frozenset((one,))) for one in ids]
    filters += [
        EventFilter(connections=frozenset(ids), kinds=frozenset((Kind.onTerminate, Kind.onError))),
        EventFilter(connections=frozenset(ids), workers=frozenset("ac")),
        EventFilter(kinds=frozenset((Kind.onMessage,))),
    ]
    for events in filters:
        wanted = [
            (position, connection, kind, body)
            for position, (worker, connection, kind, body) in enumerate(expected.events, 1)
            if position >= journal.first
            and (not events.workers or worker in events.workers)
            and (not events.connections or connection in events.connections)
            and (not events.kinds or kind in events.kinds)
        ]
        for limit in (ALL, 3_000):
            assert await texts(journal, events, limit) == wanted, events
    await journal.stop()


@pytest.mark.parametrize("max_events", [10_000_000, 3_000])
@rounds(1, 15, name="kills")
async def test_what_a_crash_leaves_is_what_was_committed_in_every_table(
    tmp_path: Path, often: None, max_events: int, kills: int
) -> None:
    for _ in range(kills):
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chosen = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.journal.loaded", str(folder), str(seed), str(max_events)], cwd=ROOT
        )
        try:
            copies = []
            for number in range(4):
                more = acked(folder) + chosen.randrange(2_000)
                await wait_for(lambda folder=folder, more=more: acked(folder) > more)
                await asyncio.sleep(chosen.random() / 20)
                # What the files are while it stands still is what a kill would leave.
                process.send_signal(signal.SIGSTOP)
                os.waitpid(process.pid, os.WUNTRACED)  # all of its threads stand still
                copy = tmp_path / f"{seed}-{number}"
                copy.mkdir()
                for name in ("journal.db", "journal.db-wal"):
                    shutil.copy(folder / name, copy / name)
                copies.append((copy, acked(folder)))
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()
            process.wait()
        for copy, least in [*copies, (folder, acked(folder))]:
            await check(copy, seed, least, max_events)
            await check(copy, seed, least, max_events)  # it was opened, and closed in order
            shutil.rmtree(copy)
