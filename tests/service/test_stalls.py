"""Nothing keeps the service's loop for long, however many connections there are: judged by the CPU of each step of the loop."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from asyncio.events import Handle
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mooring.events import Kind
from mooring.link.channel import frame
from mooring.link.messages import Resent, Stored, Terminate, TerminateDone, Welcome
from mooring.link.outbox import FRAME_CONNECTIONS
from mooring.link.record import ConnectionUpdate, Terminated
from mooring.process import identity
from mooring_service.config import JournalConfig
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, held, running_service, until

MANY = 20_000
STALL_S = 0.02
UNIT_S = 0.0005


def _unit_s() -> float:
    """Return the CPU that `UNIT_S` of work takes just now: whoever shares the core, its caches or its other thread slows all steps alike."""
    taken = []
    for _ in range(9):
        begun = time.thread_time()
        sum(number % 7 for number in range(20_000))
        taken.append(time.thread_time() - begun)
    return sorted(taken)[len(taken) // 2]


class Steps:
    """The steps of the loop while it is `watched`: how much CPU each has used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._watching = False
        self.longest: list[tuple[float, str]] = []
        run = Handle._run  # type: ignore[attr-defined]

        def measured(handle: Any) -> None:
            watching, begun = self._watching, time.thread_time()
            run(handle)
            if watching and self._watching:  # else it is a step of the test itself
                self.longest.append((time.thread_time() - begun, repr(handle._callback)))

        monkeypatch.setattr(Handle, "_run", measured)

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        self.longest.clear()
        before_s = _unit_s()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
        slower = min(max(1.0, before_s / UNIT_S, _unit_s() / UNIT_S), 4.0)  # more is no neighbour of ours
        worst = sorted(self.longest, reverse=True)[:3]
        print(what, [(f"{took * 1000:.1f} ms", name[:200]) for took, name in worst])
        assert worst[0][0] < STALL_S * slower, (what, slower, worst)

    async def of(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(work)
        await asyncio.sleep(0)
        with self.watched(what):
            await asyncio.wait({task})
        return task.result()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    before = gc.get_threshold()
    identity.settle_memory()  # as the service does
    yield Steps(monkeypatch)
    gc.set_threshold(*before)
    gc.unfreeze()


async def _fill(worker: FakeWorker, first: int, count: int) -> None:
    for begin in range(first, first + count, 1_000):
        ids = range(begin, min(begin + 1_000, first + count))
        number = worker.events(
            *((connection, 1, Kind.onOpen, "{}") for connection in ids),
            created=ids,
            updates=[ConnectionUpdate(connection, "Connected", 1) for connection in ids],
        )
        while (await worker.expect(Stored)).number < number:
            pass


@asynccontextmanager
async def filled(
    folder: Path, fakes: FakeWorkers, count: int, **supervisor: float
) -> AsyncIterator[tuple[Service, FakeWorker]]:
    async with running_service(folder, **supervisor) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        await _fill(worker, 1, count)
        yield service, worker


async def test_lists_and_metrics(tmp_path: Path, fakes: FakeWorkers, steps: Steps) -> None:
    async with filled(tmp_path, fakes, MANY) as (service, _):
        page = service.connections.page
        found, following = await steps.of("nothing", page(worker=None, status="Closing", after=0, limit=100))
        assert (found, following) == ([], None)
        found, _ = await steps.of("no such worker", page(worker="nobody", status=None, after=0, limit=100))
        assert found == []
        found, following = await steps.of("last page", page(worker=None, status=None, after=MANY - 50, limit=100))
        assert [record.id for record in found] == list(range(MANY - 49, MANY + 1)) and following is None
        found, following = await steps.of("a page", page(worker="main", status="Connected", after=7, limit=1_000))
        assert [record.id for record in found] == list(range(8, 1_008)) and following == 1_007


async def test_adoption(tmp_path: Path, fakes: FakeWorkers, steps: Steps) -> None:
    async with filled(tmp_path, fakes, MANY) as (service, worker):
        worker.hang_up()
        await worker.lost()
        await worker.dial()
        hello = frame(worker.greeting(*(held(connection, "main") for connection in range(1, MANY + 1))))
        with steps.watched("adoption"):
            worker.channel.send_frame(hello)
            await worker.expect(Welcome)
            worker.send(Resent(worker._number))
            await asyncio.wait(set(service._intake._hellos._learning.values()))
        assert service.workers.record("main").status == "Running"


async def test_the_death_of_a_worker(tmp_path: Path, fakes: FakeWorkers, steps: Steps) -> None:
    async with filled(tmp_path, fakes, 5_000, restart_delay=30) as (service, worker):
        with steps.watched("death"):
            worker.die()
            await until(lambda: service.workers.record("main").status == "Restarting")
        assert service.directory.live_count == 0


async def test_mass_terminate(tmp_path: Path, fakes: FakeWorkers, steps: Steps) -> None:
    count = 2_000
    async with filled(tmp_path, fakes, count) as (service, worker):
        ending = [
            asyncio.create_task(service.connections.terminate(connection, None, None))
            for connection in range(1, count + 1)
        ]
        orders = [await worker.expect(Terminate) for _ in range(count)]
        end = Terminated(1000, "", True)
        data = [ConnectionUpdate(order.connection, "Closed", 2, terminate=end, ended=True) for order in orders]
        with steps.watched("mass terminate"):
            await asyncio.sleep(0)
            number = worker.events(*((order.connection, 2, Kind.onTerminate, "{}") for order in orders), updates=data)
            for order in orders:
                worker.send(TerminateDone(order.request, number))
            await asyncio.wait(ending)
        assert {task.result().status for task in ending} == {"Closed"}


async def test_the_end_of_all_connections_of_a_worker(tmp_path: Path, fakes: FakeWorkers, steps: Steps) -> None:
    """In one frame it was 39 ms: each record looked for its last event among those of all others."""
    count, each = 5_000, FRAME_CONNECTIONS
    async with filled(tmp_path, fakes, count) as (service, worker):
        end = Terminated(1001, "the worker ends", True)
        ids = random.Random(1).sample(range(1, count + 1), count)
        with steps.watched("the end of all"):
            for at in range(0, count, each):
                ending = ids[at : at + each]
                worker.events(
                    *((connection, 2, Kind.onTerminate, "{}") for connection in ending),
                    updates=[ConnectionUpdate(one, "Closed", 2, terminate=end, ended=True) for one in ending],
                )
            await until(lambda: not service.directory.live_count)


async def test_pruning(tmp_path: Path, fakes: FakeWorkers, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring_service.journal.writer.PRUNE_EVERY_S", 0.0)
    (tmp_path / "state").mkdir()
    journal = SqliteJournal(tmp_path / "state" / "journal.db", JournalConfig(max_events=2_000))
    async with running_service(tmp_path, journal) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        await _fill(worker, 1, 1_000)
        with steps.watched("pruning"):
            for seq in range(2, 302):
                number = worker.events(
                    *((connection, seq, Kind.onMessage, '{"data":"x"}') for connection in range(1, 101))
                )
                while (await worker.expect(Stored)).number < number:
                    pass
            await until(lambda: journal.first > 20_000)
