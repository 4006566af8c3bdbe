"""Workers that have no process just now: they are there all the same, also for the next service."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mooring.errors import UnknownWorker
from mooring_service.processes.slot import IncarnationRecord
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, until


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def _until(service: Service, status: str) -> None:
    await until(lambda: service.workers.record("main").status == status)


async def test_a_worker_that_is_restarting_is_so_for_the_next_service(tmp_path: Path, fakes: FakeWorkers) -> None:
    """Row 5 of the review: its workerExited said `restarting: true`, and it was gone."""
    async with running_service(tmp_path, handover=True, restart_delay=600) as service:
        (await _start(service, fakes)).die()
        await _until(service, "Restarting")
        reason = service.workers.record("main").reason
    async with running_service(tmp_path) as service:
        record = service.workers.record("main")
        assert (record.status, record.restarts, record.reason) == ("Restarting", 1, reason), "its delay goes on"
        assert record.pid is None and reason is not None


async def test_a_worker_that_is_restarting_is_restarted_by_the_next_service_when_it_is_due(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, handover=True, restart_delay=1.0) as service:
        worker = await _start(service, fakes)
        died_at = time.monotonic()
        worker.die()
        await _until(service, "Restarting")
    async with running_service(tmp_path, restart_delay=600) as service:
        await fakes.linked()
        assert time.monotonic() - died_at > 0.4, "the delay of its first death goes on"
        await _until(service, "Running")
        assert service.workers.record("main").restarts == 1


async def test_a_failed_worker_stays_failed_and_can_be_brought_back(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True, restart_budget=1) as service:
        (await _start(service, fakes)).die()
        (await fakes.linked()).die()
        await _until(service, "Failed")
        reason = service.workers.record("main").reason
    for _ in range(2):
        async with running_service(tmp_path, handover=True) as service:
            assert service.readiness().degraded == ["main"]
            assert service.workers.record("main").reason == reason
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        await fakes.linked()
        record, created = await starting
        assert (record.status, created) == ("Running", False)
        assert service.readiness().degraded == []


async def test_the_restart_budget_goes_on_over_a_handover(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True, restart_budget=2) as service:
        (await _start(service, fakes)).die()
        worker = await fakes.linked()
        await _until(service, "Running")
    async with running_service(tmp_path, restart_budget=2) as service:
        await worker.link()
        worker.die()
        (await fakes.linked()).die()
        await _until(service, "Failed")


@pytest.mark.parametrize("status", ["Restarting", "Failed"])
async def test_one_that_is_killed_is_gone_for_the_next_service_too(
    tmp_path: Path, fakes: FakeWorkers, status: str
) -> None:
    kept_so = {"restart_delay": 30} if status == "Restarting" else {"restart_budget": 1}
    async with running_service(tmp_path, handover=True, **kept_so) as service:
        worker = await _start(service, fakes)
        worker.die()
        if status == "Failed":
            (await fakes.linked()).die()
        await _until(service, status)
        await service.workers.kill("main")
    async with running_service(tmp_path) as service:
        with pytest.raises(UnknownWorker):
            service.workers.record("main")


async def test_after_a_crash_they_stand_as_after_a_handover(tmp_path: Path, fakes: FakeWorkers) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    async with running_service(tmp_path, restart_delay=30) as service:
        (await _start(service, fakes)).die()
        await _until(service, "Restarting")
        # What a service that is killed now leaves behind.
        await service.journal.backup(str(tmp_path / "copy.db"))
    (crashed / "state").mkdir()
    (tmp_path / "copy.db").rename(crashed / "state" / "journal.db")
    async with running_service(crashed) as service:
        assert service.workers.record("main").status == "Restarting"
    async with running_service(tmp_path) as service:
        assert service.workers.records() == [], "and after a stop in order there is none"


def test_a_record_of_the_first_version_is_read() -> None:
    record = IncarnationRecord("secret")
    assert (record.deaths, record.reason, record.restart_at) == ([], None, None)
