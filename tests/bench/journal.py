"""The journal alone, in this process: what one event costs when events are scattered, and what its history costs later.

python -m tests.bench.journal paced RATE SECONDS   CPU, latency and bytes written per event, one event to an addition
python -m tests.bench.journal history COUNT [EACH] COUNT events, EACH (1) to an addition; then replay, a rare kind, size, pruning all of it
python -m tests.bench.journal flood SECONDS        additions of hundreds of events, as fast as they are taken

Prints one line of JSON. `MOORING_BENCH_DIR` says on which disk; the code measured is what Python imports, so a checkout of an
older commit is measured with PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvloop

from mooring.events import Kind
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Committed
from mooring_service.journal.sqlite import SqliteJournal

CONNECTIONS = 2_000
WORKERS = 2
BODY = (
    b'"kind":"onMessage","connection":%d,"worker":"w%d","seq":%d,"time":"2026-11-28T10:00:00.000000Z",'
    b'"event":{"type":"message","data":"' + b"x" * 100 + b'"}}'
)


def written_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def thread_cpu_s() -> dict[str, float]:
    """CPU seconds of the journal's threads, by name."""
    return {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None and thread.name.startswith("journal")
    }


class Source:
    """Makes additions as two workers with many connections would."""

    def __init__(self, seed: int = 1) -> None:
        self.chosen = random.Random(seed)
        self.seq = [0] * (CONNECTIONS + 1)
        self.numbers = [0] * WORKERS

    def next(self, kind: int = Kind.onMessage, events: int = 1) -> Append:
        connection = self.chosen.randint(1, CONNECTIONS)
        worker = connection % WORKERS
        first = self.seq[connection] + 1
        self.seq[connection] += events
        self.numbers[worker] += 1
        now = time.time_ns() // 1000
        return Append(
            worker=f"w{worker}",
            incarnation=f"{worker:032x}",
            number=self.numbers[worker],
            connections=connection.to_bytes(8, "little") * events,
            kinds=bytes((kind,)) * events,
            bodies=b"\n".join([BODY % (connection, worker, first + at) for at in range(events)]),
            updates=[ConnectionUpdate(connection, "Connected", first + events - 1, first, 0, 100, 0, now, None, now)],
            began_at_us=now,
        )


class Bench:
    def __init__(self, folder: str, **config: object) -> None:
        self.path = Path(folder) / "journal.db"
        self.journal = SqliteJournal(self.path, JournalConfig(**config))  # type: ignore[arg-type]
        self.late: list[int] = []
        self.groups = 0

    def committed(self, items: list[Committed]) -> None:
        now = time.time_ns() // 1000
        self.groups += 1
        self.late += [now - item.append.began_at_us for item in items if item.append.began_at_us]

    async def start(self) -> Source:
        await self.journal.start(self.committed, lambda failure: print(f"failure: {failure}", file=sys.stderr))
        for worker in range(WORKERS):
            await self.journal.save_incarnation(f"{worker:032x}", f"w{worker}", b"")
        for connection in range(1, CONNECTIONS + 1):
            created = ConnectionCreated(
                connection, "ws://127.0.0.1:8080/quiet", f"w{connection % WORKERS}", None, "text", [], 1
            )
            self.journal.append(Append(incarnation=f"{connection % WORKERS:032x}", created=[created]))
        await self.journal.append_waiting(Append())
        return Source()

    async def scatter(self, source: Source, rate: float, seconds: float) -> int:
        """Append at random times, on average `rate` a second; a thread with a fine clock says when."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        gaps = random.Random(2)

        def drive() -> None:
            due = begin = time.monotonic()
            while due - begin < seconds:
                due += gaps.expovariate(rate)
                wait = due - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                loop.call_soon_threadsafe(lambda: self.journal.append(source.next()))
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=drive, daemon=True).start()
        await done.wait()
        await self.journal.append_waiting(Append())
        return sum(source.numbers)


async def paced(folder: str, rate: float, seconds: float) -> dict[str, float]:
    bench = Bench(folder, level=os.environ.get("MOORING_BENCH_LEVEL", "process"))
    source = await bench.start()
    await bench.scatter(source, rate, 1.0)
    before = sum(source.numbers)
    bench.late.clear()
    bench.groups = 0
    cpu, own, written = thread_cpu_s(), time.process_time(), written_bytes()
    count = await bench.scatter(source, rate, seconds) - before
    own = time.process_time() - own
    used = {name: (after - cpu.get(name, 0.0)) / count * 1e6 for name, after in thread_cpu_s().items()}
    bytes_each = (written_bytes() - written) / count
    await bench.journal.stop()
    late = sorted(bench.late)
    return {
        **{f"{name.removeprefix('journal-')}_us": round(value, 1) for name, value in used.items()},
        "process_us": round(own / count * 1e6, 1),
        "events": count,
        "events_a_group": round(count / bench.groups, 2),
        "written_bytes": round(bytes_each),
        "p50_ms": late[len(late) // 2] / 1000,
        "p99_ms": late[int(len(late) * 0.99)] / 1000,
        "p999_ms": late[int(len(late) * 0.999)] / 1000,
        "max_ms": late[-1] / 1000,
    }


async def read_all(journal: SqliteJournal, events: EventFilter, after: int) -> tuple[int, float]:
    begun = time.perf_counter()
    found = 0
    while after < journal.last:
        batches, upto = await journal.read(after, events, 512 * 1024)
        for batch in batches:
            indices = events.select(batch, after)
            bodies = batch.bodies
            found += len(bodies) if indices is None else len(indices)
        after = upto
    return found, time.perf_counter() - begun


async def history(folder: str, count: int, each: int = 1) -> dict[str, float]:
    """Additions of `each` events, some of a rare kind every 100,000 events; each waits for what is before it, five at a time."""
    bench = Bench(folder, max_events=100_000_000, max_bytes=1 << 40)
    source = await bench.start()
    begun = time.perf_counter()
    cpu = time.process_time()
    rare = 50_000 // each
    for at in range(1, count // each + 1):
        kind = Kind.onError if at % (2 * rare) == rare else Kind.onMessage
        if at % 5:
            bench.journal.append(source.next(kind, each))
        else:
            await bench.journal.append_waiting(source.next(kind, each))
    await bench.journal.append_waiting(Append())
    result = {
        "events": bench.journal.last,
        "write_s": time.perf_counter() - begun,
        "write_cpu_us": (time.process_time() - cpu) / bench.journal.last * 1e6,
    }
    await asyncio.sleep(3)
    replayed, seconds = await read_all(bench.journal, EventFilter(), 0)
    assert replayed == bench.journal.last
    result["replay_per_s"] = replayed / seconds
    for name, events in (
        ("rare_kind", EventFilter(kinds=frozenset((int(Kind.onError),)))),
        ("no_kind", EventFilter(kinds=frozenset((int(Kind.callbackError),)))),
        ("connection", EventFilter(connections=frozenset((7,)))),
        ("ten_connections", EventFilter(connections=frozenset(range(10, 20)))),
        ("kind_of_connection", EventFilter(connections=frozenset((7,)), kinds=frozenset((int(Kind.callbackError),)))),
    ):
        times = []
        for _ in range(5):
            found, seconds = await read_all(bench.journal, events, 0)
            times.append(seconds * 1e3)
        result[f"{name}_ms"] = sorted(times)[2]
        result[f"{name}_found"] = found
    await bench.journal.stop()
    result["file_bytes"] = sum(path.stat().st_size for path in Path(folder).iterdir())
    pruning = Bench(folder, max_events=1_000)
    await pruning.journal.start(pruning.committed, print)
    waits = []
    begun = time.monotonic()
    while pruning.journal.last - pruning.journal.first > 2_000 and time.monotonic() < begun + 120:
        asked = time.perf_counter()
        await pruning.journal.append_waiting(
            Append(worker="w", connections=bytes(8), kinds=bytes((Kind.workerStarted,)), bodies=b"{}")
        )
        waits.append((time.perf_counter() - asked) * 1e3)
        await asyncio.sleep(0.002)
    waits.sort()
    result["prune_s"] = time.monotonic() - begun
    result["prune_p50_ms"] = waits[len(waits) // 2]
    result["prune_p99_ms"] = waits[int(len(waits) * 0.99)]
    result["prune_max_ms"] = waits[-1]
    await pruning.journal.stop()
    return {name: round(value, 2) for name, value in result.items()}


async def flood(folder: str, seconds: float) -> dict[str, float]:
    bench = Bench(folder)
    source = await bench.start()
    begun = time.perf_counter()
    cpu = time.process_time()
    written = written_bytes()
    while time.perf_counter() - begun < seconds:
        bench.journal.append(source.next(events=500))
        if bench.journal.queued_bytes > 8 * 1024 * 1024:
            await bench.journal.append_waiting(source.next(events=500))
    await bench.journal.append_waiting(Append())
    took = time.perf_counter() - begun
    events = bench.journal.last
    writer = thread_cpu_s()
    await bench.journal.stop()
    return {
        "per_s": round(events / took),
        "process_us": round((time.process_time() - cpu) / events * 1e6, 3),
        "writer_us": round(writer["journal-writer"] / events * 1e6, 3),
        "written_bytes": round((written_bytes() - written) / events),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mooring-bench-", dir=os.environ.get("MOORING_BENCH_DIR")) as folder:
        match sys.argv[1:]:
            case ["paced", rate, seconds]:
                result = uvloop.run(paced(folder, float(rate), float(seconds)))
            case ["history", count, *each]:
                result = uvloop.run(history(folder, int(count), *map(int, each)))
            case ["flood", seconds]:
                result = uvloop.run(flood(folder, float(seconds)))
            case _:
                sys.exit(__doc__)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
