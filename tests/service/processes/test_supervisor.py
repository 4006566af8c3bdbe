"""The supervisor: which workers there are, how they come to be by use, are ended, renewed and left, in whatever order that is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.errors import LimitReached, Unavailable, UnknownWorker, WorkerBusy, WorkerDied
from mooring.link.messages import Reconfigure, Stop
from mooring_service.config import Config, EgressConfig, LimitsConfig
from mooring_service.processes import lifecycle
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, told_of, until


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def test_many_who_use_a_name_at_once_get_one_process(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        using = [asyncio.create_task(service._supervisor.ensure("main")) for _ in range(20)]
        worker = await fakes.linked()
        slots = await asyncio.gather(*using)
        assert len(set(map(id, slots))) == 1 and slots[0].record.pid == worker.pid
        made = await asyncio.gather(*(service.workers.start("main") for _ in range(5)))
        assert {(record.pid, created) for record, created in made} == {(worker.pid, False)}


async def test_who_waits_for_a_worker_whose_first_process_dies_gets_the_next_one(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        using = asyncio.create_task(service._supervisor.ensure("main"))
        (await fakes.come()).die()
        second = await fakes.linked()
        assert (await using).record.pid == second.pid
        assert service.workers.record("main").restarts == 1


async def test_who_waits_for_one_that_fails_is_told_so(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, restart_budget=1) as service:
        using = asyncio.create_task(service._supervisor.ensure("main"))
        for _ in range(2):
            (await fakes.come()).die()
        with pytest.raises(WorkerDied):
            await using
        with pytest.raises(WorkerBusy, match="Failed"):
            await service._supervisor.ensure("main")


async def test_there_are_no_more_workers_than_allowed_and_a_name_that_is_gone_makes_room(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        service.reconfigure(Config(limits=LimitsConfig(max_workers=1)))
        await _start(service, fakes, "a")
        with pytest.raises(LimitReached, match=r"max_workers = 1"):
            await service.workers.start("b")
        await service.workers.kill("a")
        await _start(service, fakes, "b")


async def test_however_often_a_worker_is_killed_it_ends_once_and_all_hear_of_it(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.opened(1, new=True)
        await until(lambda: service.workers.record("main").connections == 1)
        killed = await asyncio.gather(*(service.workers.kill("main") for _ in range(5)))
        assert {(one.discarded, one.closed) for one in killed} == {(0, 1)}
        with pytest.raises(UnknownWorker):
            await service.workers.kill("main")


async def test_what_may_change_is_told_to_all_that_run(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
        for worker in workers:
            await worker.expect(Reconfigure)  # behind its welcome
        service.reconfigure(Config(egress=EgressConfig(deny=["10.0.0.0/8"])))
        for worker in workers:
            assert (await worker.expect(Reconfigure)).egress_deny == ["10.0.0.0/8"]


async def test_at_the_end_all_are_told_at_once_and_nothing_is_begun(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, stop_timeout=600) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b", "c")]
        for worker in workers:
            worker.silent = True  # each would take all of its time, and the next one be told ten minutes later
        stopping = asyncio.create_task(service.stop())
        for worker in workers:
            assert (await worker.expect(Stop)).reason == "the service is stopping"
        with pytest.raises((Unavailable, WorkerBusy)):
            await service._supervisor.ensure("d")
        for worker in workers:
            worker.die()
        await stopping
        assert [slot.process for slot in service.workers.slots()] == []


async def test_a_handover_ends_nobody_and_the_next_one_has_them_all(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
    async with running_service(tmp_path) as service:
        assert sorted(service._roster.adopting) == ["a", "b"]
        with pytest.raises(Unavailable, match="is being adopted"):
            await service._supervisor.ensure("a")
        for worker in workers:
            await worker.link()
        await until(lambda: not service._roster.adopting)
        assert [record.pid for record in service.workers.records()] == [worker.pid for worker in workers]


async def test_what_a_worker_said_before_it_died_is_read_although_the_time_for_it_is_over(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line 1 of the issue of faults: here the service stood still for longer than it gives to what is left in the socket."""
    monkeypatch.setattr(lifecycle, "DRAIN_LINK_S", 0.0)
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.opened(1, new=True)
        await until(lambda: service.workers.record("main").connections == 1)
        service._roster.slot("main").pause_reading()
        worker.message(1, 2, 1_000)
        worker.die()
        await fakes.linked()
        assert await told_of(service, 1) == [(1, "onOpen"), (2, "onMessage"), (3, "onTerminate")]
