"""The limits of connections: what is only being opened counts, and code in workers is told when the service is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.errors import LimitReached
from mooring.events import Kind
from mooring.link.messages import Open, Stored
from mooring.link.record import ConnectionUpdate, Terminated
from mooring.options import ConnectionRequest
from mooring_service.config import Config, LimitsConfig
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, stalled_disk, until


async def _start(service: Service, fakes: FakeWorkers, name: str) -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def _told(worker: FakeWorker, full_at: int) -> None:
    while (await worker.expect(Stored)).full_at != full_at:
        pass


@pytest.mark.parametrize("setting", ["max_connections", "max_connections_per_worker"])
async def test_creates_under_way_count(tmp_path: Path, fakes: FakeWorkers, setting: str) -> None:
    """L6 of the review: a hundred at once were admitted where two were allowed."""
    async with running_service(tmp_path) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
        service.reconfigure(Config(limits=LimitsConfig(**{setting: 2})))
        request = ConnectionRequest(url="ws://nowhere/", worker="a")
        with stalled_disk(service.state_dir):  # their intents wait
            creating = [asyncio.create_task(service.connections.open(request)) for _ in range(5)]
            await until(lambda: sum(task.done() for task in creating) == 3)
            refused = [task.exception() for task in creating if task.done()]
            assert {str(exc) for exc in refused} == {f"limit reached: limits.{setting} = 2"}
            other = asyncio.create_task(service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="b")))
            await asyncio.sleep(0)
        await asyncio.gather(*creating, return_exceptions=True)
        assert [(await workers[0].expect(Open)).connection_request.worker for _ in range(2)] == ["a", "a"]
        if setting == "max_connections":
            with pytest.raises(LimitReached):
                await other
        else:
            await other
            await workers[1].expect(Open)


async def test_who_is_refused_counts_no_longer(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        await _start(service, fakes, "a")
        service.reconfigure(Config(limits=LimitsConfig(max_connections_per_worker=1)))
        slot = service._roster.slot("a")
        slot.draining = True
        for _ in range(3):
            with pytest.raises(Exception, match="Draining"):
                await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="a"))
        assert not service._openings._under_way


async def test_every_worker_is_told_when_the_service_holds_all_that_it_may_and_when_not(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        one, two = [await _start(service, fakes, name) for name in ("a", "b")]
        service.reconfigure(Config(limits=LimitsConfig(max_connections=2)))
        one.opened(1, new=True)
        one.opened(2, new=True)
        for worker in (one, two):
            await _told(worker, 2)
        two.hang_up()
        await two.lost()
        assert (await two.link()).full_at == 2
        end = ConnectionUpdate(1, "Closed", 2, terminate=Terminated(1000, "", True), ended=True)
        one.events((1, 2, Kind.onTerminate, "{}"), updates=[end])
        for worker in (one, two):
            await _told(worker, 0)
        one.opened(3, new=True)
        await _told(two, 2)
        service.reconfigure(Config(limits=LimitsConfig(max_connections=3)))
        for worker in (one, two):
            await _told(worker, 0)
