"""A process that is watched: by a service that is away itself, that does not read, that is slow; by one that is right."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from mooring.link.messages import Stored
from mooring_service import window
from mooring_service.config import SupervisorConfig
from mooring_service.processes import lifecycle
from mooring_service.processes.reports import Reports
from mooring_service.processes.slot import Slot
from mooring_service.processes.watch import watch
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, stalled_disk, told_of, until

SHORT = {"probe_interval": 0.1, "watchdog_timeout": 0.4}


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


def _be_patient(service: Service) -> None:
    """What is started from now on has all the time that a busy machine takes for it."""
    life = service._supervisor._lifecycle
    life._config = msgspec.structs.replace(life._config, start_timeout=600.0)


def _alive(worker: FakeWorker, service: Service) -> bool:
    return service.workers.record(worker.name).pid == worker.pid


async def test_a_worker_that_is_silent_is_ended_and_replaced(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, **SHORT) as service:
        worker = await _start(service, fakes)
        worker.silent = True
        again = await fakes.linked()
        assert again.pid != worker.pid
        assert "did not answer" in (service.workers.record("main").reason or "")


async def test_a_service_that_stood_still_ends_nobody(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, **SHORT) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
        for pause_s in (1.0, 0.45):
            time.sleep(pause_s)  # nothing is read meanwhile, and nothing is judged
            for worker in workers:
                probed = len(worker.probed)
                await until(lambda worker=worker, probed=probed: len(worker.probed) > probed + 1)
                assert _alive(worker, service)
        workers[0].silent = True
        await until(lambda: service.workers.record("a").pid != workers[0].pid)
        assert _alive(workers[1], service)


async def test_workers_that_we_do_not_read_because_of_the_disk_live_and_lose_nothing(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "QUEUE_HIGH_BYTES", 4 * 1024 * 1024)
    async with running_service(tmp_path, **SHORT) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
        for connection, worker in enumerate(workers, 1):
            worker.opened(connection, new=True)
        with stalled_disk(service.state_dir):
            for seq in range(2, 22):
                for connection, worker in enumerate(workers, 1):
                    worker.message(connection, seq, 1_000_000)
            await until(lambda: not any(slot.reading for slot in service.workers.slots()))
            await asyncio.sleep(3 * SHORT["watchdog_timeout"])
            assert all(_alive(worker, service) for worker in workers)
        for connection, worker in enumerate(workers, 1):
            while (await worker.expect(Stored)).number < 21:
                pass
            assert [seq for seq, _ in await told_of(service, connection)] == list(range(1, 22))
            assert _alive(worker, service)


async def test_what_a_worker_had_sent_before_it_died_is_read_although_we_did_not_read_it(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "QUEUE_HIGH_BYTES", 1_000)
    monkeypatch.setattr(window, "WINDOW_MIN_BYTES", 1)
    async with running_service(tmp_path, restart_delay=30) as service:
        worker = await _start(service, fakes)
        worker.opened(1, new=True)
        with stalled_disk(service.state_dir):
            worker.message(1, 2, 10_000)
            await until(lambda: not service.workers.slots()[0].reading)
            worker.message(1, 3, 10_000)
            await asyncio.sleep(0.05)
            worker.die()
            await until(lambda: service.workers.record("main").pid is None)
        await until(lambda: service.workers.record("main").status == "Restarting")
        assert [seq for seq, _ in await told_of(service, 1)] == [1, 2, 3, 4]


async def test_a_process_that_starts_and_hangs_is_ended(
    tmp_path: Path, fakes: FakeWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service(tmp_path, **SHORT, start_timeout=3.0) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        hung = await fakes.come()  # it is there, and never dials
        _be_patient(service)
        await until(lambda: any("did not connect" in line for line in caplog.messages))
        worker = await fakes.linked()
        record, _ = await starting
        assert record.pid == worker.pid != hung.pid
        assert "did not connect" in (record.reason or "")


async def test_a_start_waits_for_its_turn(tmp_path: Path, fakes: FakeWorkers) -> None:
    turns = len(os.sched_getaffinity(0)) + 1
    async with running_service(tmp_path) as service:
        starting = [asyncio.create_task(service.workers.start(f"w{index}")) for index in range(turns + 1)]
        first = [await fakes.come() for _ in range(turns)]
        await asyncio.sleep(0.2)
        records = service.workers.records()
        assert [record.pid is not None for record in records].count(True) == turns
        assert {record.status for record in records} == {"Starting"}
        await first[0].link()  # its turn is over: the next one begins
        next_one = await fakes.come()
        for worker in (next_one, *first[1:]):
            await worker.link()
        await asyncio.gather(*starting)


async def test_a_start_that_hangs_holds_up_the_others_for_no_longer_than_its_time(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def patient(slot: Slot, config: SupervisorConfig, reports: Reports, *, adopted: bool = False) -> str:
        return await watch(slot, msgspec.structs.replace(config, start_timeout=600.0), reports, adopted=adopted)

    monkeypatch.setattr(lifecycle, "watch", patient)  # a turn alone ends with that time: nobody is ended by it here
    turns = len(os.sched_getaffinity(0)) + 1
    async with running_service(tmp_path, start_timeout=0.3) as service:
        starting = [asyncio.create_task(service.workers.start(f"w{index}")) for index in range(turns + 1)]
        workers = [await fakes.come() for _ in range(turns + 1)]  # although none of the first ones is linked
        for worker in workers:
            await worker.link()
        await asyncio.gather(*starting)


async def test_a_worker_that_waits_for_its_turn_can_be_killed(tmp_path: Path, fakes: FakeWorkers) -> None:
    turns = len(os.sched_getaffinity(0)) + 1
    async with running_service(tmp_path) as service:
        starting = [asyncio.create_task(service.workers.start(f"w{index}")) for index in range(turns + 1)]
        first = [await fakes.come() for _ in range(turns)]
        assert (await service.workers.kill(f"w{turns}")).closed == 0
        assert not service.workers.has(f"w{turns}")
        for worker in first:
            await worker.link()
        *started, killed = await asyncio.gather(*starting, return_exceptions=True)
        assert isinstance(killed, Exception) and not any(isinstance(one, Exception) for one in started)


async def test_signals_end_a_worker_that_does_not_do_as_it_is_told(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, stop_timeout=0.1, kill_timeout=0.1) as service:
        worker = await _start(service, fakes)
        worker.silent = True
        os.kill(worker.pid, signal.SIGSTOP)  # it takes no SIGTERM either
        await service.workers.kill("main")
        assert not service.workers.has("main")
