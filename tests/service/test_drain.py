"""A drain: nothing that was asked of the worker is lost, and what is asked of its name meanwhile waits for the next process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring.link.messages import PROTOCOL_VERSION, AskCall, Call, Called, Stats, Stop, Stored, Taken
from mooring.link.record import ConnectionUpdate, Terminated
from mooring_service import workers as workers_module
from mooring_service.processes.slot import Slot
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, stalled_disk, until


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.service.fake_worker.FUNCTIONS", {"f": "m:f"})
    monkeypatch.setattr(workers_module, "IDLE_POLL_S", 0.02)


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def _draining(service: Service) -> Slot:
    await service.workers.drain("main")
    slot = service._roster.slot("main")
    await until(lambda: slot.renewal is not None)
    return slot


def _has_stopped(worker: FakeWorker) -> bool:
    return any(isinstance(command, Stop) for command in worker._commands._queue)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("version", "left"),
    [
        (PROTOCOL_VERSION, Stats(calls=2, mailbox=1, running="f")),
        (PROTOCOL_VERSION, Stats(calls=1)),
        (4, Stats(mailbox=2)),  # one of an older program says only this
        (4, Stats(running="f")),
    ],
)
async def test_a_worker_is_renewed_once_it_has_run_what_was_asked_of_it(
    tmp_path: Path, fakes: FakeWorkers, version: int, left: Stats
) -> None:
    """Row 14 of the review: two calls that were answered 202 never ran, and no event said so."""
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        service._roster.slot("main").version = version
        worker.stats = left
        await service.workers.drain("main")
        probed = len(worker.probed)
        await until(lambda: len(worker.probed) > probed + 5)
        assert not _has_stopped(worker) and service.workers.record("main").draining
        # Messages for connections that are kept come on and on: a drain does not wait for those.
        worker.stats = Stats(mailbox=3, running="h.on_message") if version == PROTOCOL_VERSION else Stats()
        await worker.expect(Stop)
        again = await fakes.linked()
        await until(lambda: service.workers.record("main").pid == again.pid)
        assert not service.workers.record("main").draining


async def test_it_waits_for_the_last_connection_first_and_takes_calls_until_then(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.opened(1, new=True)
        await worker.expect(Stored)
        await service.workers.drain("main")
        calling = asyncio.create_task(service.workers.call("main", "f", []))
        call = await worker.expect(Call)
        worker.send(Called(call.request, b"1"))
        assert await calling == b"1"
        assert not _has_stopped(worker)
        end = ConnectionUpdate(1, "Closed", 2, terminate=Terminated(1000, "", True), ended=True)
        worker.events((1, 2, Kind.onTerminate, "{}"), updates=[end])
        await worker.expect(Stop)


async def test_what_is_asked_of_its_name_once_it_is_empty_waits_for_the_new_process(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        other, worker = [await _start(service, fakes, name) for name in ("other", "main")]
        worker.stats = Stats(calls=1)
        await service.workers.drain("main")
        await until(lambda: service._roster.slot("main").renewal is not None)
        calling = asyncio.create_task(service.workers.call("main", "f", ["by request"]))
        other.events(asks=[AskCall("main", "f", ["by code"])])
        await other.expect(Stored)
        worker.stats = Stats()
        await worker.expect(Stop)
        again = await fakes.linked()
        seen = []
        for _ in range(2):
            call = await again.expect(Call)
            seen.append(call.params)
            again.send(Called(call.request, b"1") if call.request else Taken(call.ask))
        assert sorted(seen) == [["by code"], ["by request"]]
        assert await calling == b"1"


async def test_one_that_dies_is_renewed_by_that_and_one_that_is_killed_is_gone(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.stats = Stats(calls=1)
        await service.workers.drain("main")
        worker.die()
        again = await fakes.linked()
        await until(lambda: service.workers.record("main").status == "Running")
        await asyncio.sleep(0.1)
        assert service.workers.record("main").pid == again.pid and not service.workers.record("main").draining
        again.stats = Stats(calls=1)
        await service.workers.drain("main")
        await service.workers.kill("main")
        await asyncio.sleep(0.1)
        assert not service.workers.has("main")


async def test_one_that_is_killed_and_whose_process_is_gone_is_not_renewed(tmp_path: Path, fakes: FakeWorkers) -> None:
    """The drain took a worker without a process for one that has run all, and started the next one."""
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.stats = Stats(calls=1)
        slot = await _draining(service)
        with stalled_disk(service.state_dir):  # its end is still to be written
            killing = asyncio.create_task(service.workers.kill("main"))
            await until(lambda: slot.process is None)
            await until(lambda: slot.renewal is None)
        await killing
        await asyncio.sleep(0.1)
        assert not service.workers.has("main")


async def test_one_that_dies_and_is_told_to_end_before_that_is_written_is_renewed_all_the_same(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    """The drain told it to end, and its death took that back: nothing was started any more."""
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        worker.stats = Stats(calls=1)
        slot = await _draining(service)
        with stalled_disk(service.state_dir):  # its death is still to be written
            worker.die()
            await until(slot.stop_wanted.done)
        again = await fakes.linked()
        await until(lambda: service.workers.has("main") and service.workers.record("main").pid == again.pid)
        assert not service.workers.record("main").draining


async def test_what_one_that_dies_had_not_taken_is_for_the_next_process_also_if_it_is_told_to_end_before_that_is_written(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    """What it had been handed was taken for done: it was told to end."""
    async with running_service(tmp_path) as service:
        other, worker = [await _start(service, fakes, name) for name in ("other", "main")]
        other.events(asks=[AskCall("main", "f", ["by code"])])
        await worker.expect(Call)
        slot = await _draining(service)
        with stalled_disk(service.state_dir):  # its death is still to be written
            worker.die()
            await until(slot.stop_wanted.done)
        again = await fakes.linked()
        call = await again.expect(Call)
        assert call.params == ["by code"]
        again.send(Taken(call.ask))
        await until(lambda: not service._roster.slot("main").handed)
        assert service.workers.record("main").pid == again.pid


async def test_a_callback_that_never_ends_holds_up_a_drain_for_no_longer_than_a_call_may_take(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, call_timeout=0.3) as service:
        worker = await _start(service, fakes)
        worker.stats = Stats(calls=1)
        await service.workers.drain("main")
        await worker.expect(Stop)
        again = await fakes.linked()
        await until(lambda: service.workers.record("main").pid == again.pid)


async def test_a_failed_worker_that_is_drained_is_started_again(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, restart_budget=1) as service:
        (await _start(service, fakes)).die()
        (await fakes.linked()).die()
        await until(lambda: service.workers.record("main").status == "Failed")
        await service.workers.drain("main")
        await fakes.linked()
        await until(lambda: service.workers.record("main").status == "Running")
