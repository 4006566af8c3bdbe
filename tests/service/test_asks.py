"""What code in workers asks for is done once, in order, whatever becomes of worker and service meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mooring.events import Kind
from mooring.link.messages import AskCall, AskKill, Call, Events, Stop, Stored, Taken
from mooring_service.config import Config, WorkerConfig
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service, stalled_disk, until


@pytest.fixture(autouse=True)
def _functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the function that is asked for in the configuration."""
    monkeypatch.setattr("tests.service.fake_worker.FUNCTIONS", {"f": "m:f"})


async def _start(service: Service, fakes: FakeWorkers, name: str) -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def _ask(worker: FakeWorker, *asks: AskCall | AskKill) -> None:
    """Have code in a worker ask, and wait until that is stored."""
    number = worker.events(asks=asks)
    while (await worker.expect(Stored)).number < number:
        pass


def _call(worker: str, *params: Any) -> AskCall:
    return AskCall(worker, "f", list(params))


async def _taken(worker: FakeWorker) -> Any:
    """Take the next call; return its parameters."""
    call = await worker.expect(Call)
    worker.send(Taken(call.ask))
    return call.params


async def _left(service: Service) -> list[int]:
    """Return the numbers of what the journal still holds to be done."""
    await service.journal.append_waiting(Append())
    return await service.journal._do(lambda connection: [row[0] for row in connection.execute("SELECT id FROM asks")])  # type: ignore[attr-defined]


async def _until_done(service: Service) -> None:
    async with asyncio.timeout(60):
        while await _left(service):
            await asyncio.sleep(0.01)


async def _errors(service: Service) -> list[tuple[str, str]]:
    """Return (exception, message) of all callbackErrors."""
    batches, _ = await service.journal.read(0, EventFilter(kinds=frozenset((Kind.callbackError,))), 1 << 30)
    events = [json.loads(b"{" + body)["event"] for batch in batches for body in batch.bodies]
    return [(event["exception"], event["message"]) for event in events if event["type"] == "callbackError"]


async def test_calls_are_handed_over_in_order_and_forgotten_once_they_are_taken(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        await _ask(main, _call("other", 1), _call("other", 2))
        await _ask(main, _call("other", 3))
        first = await other.expect(Call)
        assert [first.params, (await other.expect(Call)).params] == [[1], [2]]
        assert await _left(service) == [1, 2, 3], "sent is not taken"
        other.send(Taken(first.ask + 1))
        await until(lambda: len(service.workers.slots()[1].handed) == 1)
        assert await _left(service) == [3]
        assert await _taken(other) == [3]
        await _until_done(service)


@pytest.mark.parametrize("restart", ["in order", "by a crash"])
async def test_calls_for_a_worker_that_is_being_restarted_survive_the_service(
    tmp_path: Path, fakes: FakeWorkers, restart: str
) -> None:
    """Row 5 of the review: accepted, in memory only, and lost."""
    async with running_service(tmp_path, handover=True, restart_delay=0.3) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.die()
        await until(lambda: service.workers.record("other").status == "Restarting")
        await _ask(main, _call("other", 1), _call("other", 2))
        if restart == "by a crash":
            service._asks._background._tasks.clear()  # nothing of it ends in order
    async with running_service(tmp_path) as service:
        await main.link()
        again = await fakes.linked()
        assert again.name == "other"
        assert [await _taken(again), await _taken(again)] == [[1], [2]]
        await _ask(main, _call("other", 3))
        assert await _taken(again) == [3]
        await _until_done(service)
        assert await _errors(service) == []


async def test_a_call_that_was_sent_to_a_service_that_died_is_sent_again_under_its_number(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, handover=True) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        await _ask(main, _call("other", 1))
        call = await other.expect(Call)  # taken, but that was never heard
        other.hang_up()
    async with running_service(tmp_path) as service:
        await main.link()
        await _ask(main, _call("other", 2))
        await other.link()
        again = await other.expect(Call)
        assert (again.ask, again.params) == (call.ask, [1]), "before anything that came later"
        assert (await other.expect(Call)).params == [2]
        other.send(Taken(again.ask + 1))
        await _until_done(service)


async def test_a_call_that_a_lost_link_took_with_it_is_sent_again(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        await _ask(main, _call("other", 1), _call("other", 2))
        assert await _taken(other) == [1]
        await until(lambda: len(service.workers.slots()[1].handed) == 1)
        other.hang_up()
        await other.lost()
        await _ask(main, _call("other", 3))
        await other.link()
        assert [await _taken(other), await _taken(other)] == [[2], [3]]
        await _until_done(service)


async def test_a_call_that_a_process_did_not_take_before_it_died_is_for_the_next_one(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        await _ask(main, _call("other", 1), _call("other", 2), _call("other", 3))
        assert await _taken(other) == [1]
        other.die()
        again = await fakes.linked()
        assert [await _taken(again), await _taken(again)] == [[2], [3]]
        await _until_done(service)


async def test_a_call_to_a_worker_that_is_being_adopted_waits_for_it(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
    async with running_service(tmp_path) as service:
        await main.link()
        await _ask(main, _call("other", 1))
        await other.link()
        assert await _taken(other) == [1]
        assert await _errors(service) == []


async def test_a_kill_survives_the_service_and_ends_no_process_that_came_after_it(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.processes.watch.ADOPT_S", 60.0)  # so long it may take until it is linked again
    async with running_service(tmp_path, handover=True, stop_timeout=30) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.silent = True
        await _ask(main, AskKill("other"), _call("other", 1))
        await other.expect(Stop)
    async with running_service(tmp_path, handover=True) as service:
        await main.link()
        other.silent = False
        await other.link(resent=False)
        await other.expect(Stop)  # and it ends
        again = await fakes.linked()
        assert await _taken(again) == [1]
        await _until_done(service)
    async with running_service(tmp_path) as service:
        await main.link()
        await again.link()
        assert service.workers.record("other").pid == again.pid


async def test_what_waits_for_a_worker_that_is_killed_is_told_and_what_comes_behind_that_runs(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, restart_delay=30) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.die()
        await until(lambda: service.workers.record("other").status == "Restarting")
        await _ask(main, _call("other", 1), AskKill("other"), _call("other", 2))
        again = await fakes.linked()
        assert await _taken(again) == [2]
        await _until_done(service)
        assert [error for error, _ in await _errors(service)] == ["WorkerBusy"]


async def test_what_cannot_be_done_is_told_once_and_forgotten_with_that(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True, restart_budget=1, restart_delay=0.01) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.die()
        (await fakes.linked()).die()
        await until(lambda: service.workers.record("other").status == "Failed")
        await _ask(main, _call("other", 1), AskCall("main", "unknown", []), AskKill("nobody"))
        await _until_done(service)
        assert sorted(error for error, _ in await _errors(service)) == ["UnknownFunction", "WorkerBusy"]
    async with running_service(tmp_path) as service:
        await main.link()
        assert len(await _errors(service)) == 2


async def test_a_stop_in_order_tells_what_it_does_not_do_any_more(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, restart_delay=30) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.die()
        await until(lambda: service.workers.record("other").status == "Restarting")
        await _ask(main, _call("other", 1))
    async with running_service(tmp_path) as service:
        assert await _left(service) == []
        assert [error for error, _ in await _errors(service)] == ["WorkerBusy"]
        assert service.workers.records() == []


async def test_a_call_that_needs_a_new_worker_waits_for_the_disk(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.asks.RETRY_S", 0.05)
    async with running_service(tmp_path) as service:
        main = await _start(service, fakes, "main")
        await _ask(main, AskKill("nobody"))
        with stalled_disk(service.state_dir):
            main.events(asks=[_call("other", 1)])
            await until(lambda: service.journal.failure is not None)
        other = await fakes.linked()
        assert await _taken(other) == [1]
        assert await _errors(service) == []


async def test_calls_that_wait_are_bounded_and_each_that_is_too_many_is_told(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, restart_delay=1) as service:
        service._admission.config = Config(functions={"f": "m:f"}, worker=WorkerConfig(mailbox_items=3))
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        other.die()
        await until(lambda: service.workers.record("other").status == "Restarting")
        await _ask(main, *(_call("other", number) for number in range(5)))
        again = await fakes.linked()
        assert [await _taken(again) for _ in range(3)] == [[0], [1], [2]]
        await _until_done(service)
        errors = await _errors(service)
        assert len(errors) == 2 and all("too many calls" in message for _, message in errors)


async def test_a_worker_of_an_older_program_is_handed_its_calls_without_a_receipt(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        main, other = [await _start(service, fakes, name) for name in ("main", "other")]
        service._roster.slot("other").version = 2  # as if its hello had said so
        await _ask(main, _call("other", 1))
        assert (await other.expect(Call)).params == [1]
        await _until_done(service)


def test_asks_travel_in_frames_with_events_as_before() -> None:
    assert Events(1, b"", b"", b"").asks == []
