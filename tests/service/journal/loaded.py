"""A journal under load, as a process that is killed; and what it must hold, if each addition had been written out at once.

python -m tests.service.journal.loaded FOLDER SEED MAX_EVENTS: appends what `additions` yields for ever, and writes to `acked` how
many of them are committed.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from mooring.events import Kind
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.config import JournalConfig
from mooring_service.journal import checkpoints, compaction, derived, writer
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed, Recovered
from mooring_service.journal.sqlite import SqliteJournal

INCARNATIONS = 3  # processes in the life of each worker
WORKERS = ("a", "b", "c")


def often() -> None:
    """Have everything that is done a little at a time happen all the time."""
    derived.MAX_ROWS, derived.MAX_BYTES, derived.STEP_ROWS = 60, 40_000, 7
    compaction.SEGMENT_BYTES, compaction.JOINED_BYTES, compaction.INDEX_ROWS = 50_000, 6_000, 20
    writer.PRUNE_EVERY_S = 0.01
    writer.TURN_S = 60.0  # it is stopped and copied, perhaps in the middle of a checkpoint
    checkpoints.STEP_PAGES, checkpoints.RESTART_PAGES, checkpoints.FULL_PAGES = 20, 60, 120


def additions(seed: int) -> Iterator[Append]:
    """Yield what workers and service would add; the same for the same seed, without end."""
    chosen = random.Random(seed)
    numbers: dict[str, int] = {}
    process = dict.fromkeys(WORKERS, 1)
    live: dict[int, tuple[str, int]] = {}  # connection → worker, seq
    next_id = 1
    while True:
        worker = chosen.choice(WORKERS)
        incarnation = f"{worker}{process[worker]}"
        mine = [one for one, (owner, _) in live.items() if owner == worker]
        what = chosen.random()
        if what < 0.1 or not mine:
            created = ConnectionCreated(next_id, f"ws://x/{next_id}", worker, None, "text", [], next_id)
            connecting = ConnectionUpdate(next_id, "Connecting")
            yield Append(worker=worker, incarnation=incarnation, created=[created], updates=[connecting])
            live[next_id] = (worker, 0)
            next_id += 1
            continue
        if what > 0.995 and process[worker] < INCARNATIONS:
            yield Append(
                worker=worker, connections=bytes(8), kinds=bytes((Kind.workerExited,)), bodies=b"{}", ended=incarnation
            )
            process[worker] += 1
            for one in mine:
                del live[one]
            continue
        numbers[incarnation] = numbers.get(incarnation, 0) + 1
        touched = chosen.sample(mine, min(len(mine), chosen.choice((1, 1, 1, 2, 5))))
        events = 0 if what > 0.95 else chosen.choice((1, 1, 1, 3, 40))
        columns: list[tuple[int, int]] = []
        updates = []
        for one in touched:
            seq = live[one][1] + events
            end = chosen.random() < 0.03 and events > 0
            kinds = [Kind.onMessage] * events
            if end:
                kinds[-1] = Kind.onTerminate
            columns += [(one, kind) for kind in kinds]
            live[one] = (worker, seq)
            if end:
                del live[one]
            updates.append(ConnectionUpdate(one, "Closed" if end else "Connected", seq, seq, ended=end))
        yield Append(
            worker=worker,
            incarnation=incarnation,
            number=numbers[incarnation],
            connections=b"".join(one.to_bytes(8, "little") for one, _ in columns),
            kinds=bytes(kind for _, kind in columns),
            bodies=b"\n".join(b"%d" % chosen.randrange(10 ** chosen.choice((3, 50, 300))) for _ in columns),
            updates=updates,
        )


class Eager:
    """What a journal must hold when each addition is written to every table at once."""

    def __init__(self) -> None:
        self.count = 0
        self.connections: dict[int, tuple[ConnectionCreated, ConnectionUpdate, str, int]] = {}
        self.stored: dict[str, int] = {}
        self.ended: set[str] = set()
        self.events: list[tuple[str, int, int, bytes]] = []  # worker, connection, kind, body; the first has position 1

    def add(self, append: Append) -> None:
        ids = [int.from_bytes(append.connections[at : at + 8], "little") for at in range(0, len(append.connections), 8)]
        first = len(self.events) + 1
        self.events += [
            (append.worker, *event) for event in zip(ids, append.kinds, append.bodies.split(b"\n"), strict=False)
        ]
        for created in append.created:
            _, update, _, last = self.connections.get(created.id) or (
                0,
                ConnectionUpdate(created.id, "Connecting"),
                "",
                0,
            )
            self.connections[created.id] = (created, update, append.incarnation, last)
        for update in append.updates:
            known, _, incarnation, last = self.connections[update.id]
            mine = [first + at for at, one in enumerate(ids) if one == update.id]
            self.connections[update.id] = (known, update, incarnation, mine[-1] if mine else last)
        if append.number:
            self.stored[append.incarnation] = append.number
        if append.ended:
            self.ended.add(append.ended)
        self.count += 1

    def equals(self, recovered: Recovered, last: int) -> bool:
        """Say whether a journal that ends at `last` holds this."""
        return (
            last == len(self.events)
            and {one.incarnation: one.stored for one in recovered.incarnations if one.stored} == self.stored
            and {one.incarnation for one in recovered.incarnations if one.ended} == self.ended
            and {
                one.created.id: (one.created, one.update, one.incarnation, one.last_position)
                for one in recovered.connections
            }
            == self.connections
        )


async def main(folder: Path, seed: int, max_events: int) -> None:
    often()
    acked = os.open(folder / "acked", os.O_WRONLY | os.O_CREAT, 0o600)
    count = 0

    def committed(items: list[Committed]) -> None:
        nonlocal count
        count += len(items)
        os.pwrite(acked, b"%20d" % count, 0)

    journal = SqliteJournal(folder / "journal.db", JournalConfig(max_events=max_events))
    await journal.start(committed, lambda failure: sys.exit(f"the journal has failed: {failure}"))
    for worker in WORKERS:
        for process in range(1, INCARNATIONS + 1):
            await journal.save_incarnation(f"{worker}{process}", worker, b"")
    chosen = random.Random(seed)
    for append in additions(seed):
        journal.append(append)
        if chosen.random() < 0.3:
            await asyncio.sleep(chosen.choice((0, 0.0005, 0.003)))
        while journal.queued_bytes > 200_000:
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
