"""Calls between workers and by request, and workers that are killed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import (
    call,
    call_later,
    has_seen,
    held,
    is_running,
    open_with,
    options,
    seen_by,
)
from tests.servers import EchoServer

STOP_S = 60.0  # nobody here ends by that deadline
SERVICE = (options(), {"MOORING_SUPERVISOR_STOP_TIMEOUT": f"{STOP_S}"})


async def test_a_call_answers_with_the_result(shared: RunningService) -> None:
    assert await call(shared, "add", 2, 3) == 5
    answer = await shared.call("POST", "/v1/workers/main/calls", json={"function": "add", "params": {"a": 1, "b": 5}})
    assert answer == {"result": 6}
    assert await call(shared, "add_slowly", 2, 3) == 5


async def test_a_call_that_raises_is_a_problem_with_the_exception(shared: RunningService) -> None:
    problem = await call(shared, "fail", "not here", status=422)
    assert problem["type"] == "urn:mooring:problem:call-raised"
    assert problem["exception"] == "LookupError"
    assert problem["message"] == "not here"
    assert "user_code.py" in problem["traceback"]
    assert (await call(shared, "absent", status=422))["type"] == "urn:mooring:problem:handler-error"
    assert (await call(shared, "unserialisable", status=422))["exception"] == "TypeError"
    assert (await call(shared, "add", 1, 2, 3, status=422))["exception"] == "TypeError"


async def test_what_would_not_fit_the_link_is_refused_and_the_worker_goes_on(shared: RunningService) -> None:
    problem = await call(shared, "add", 2**64, status=422)
    assert problem["errors"] == [{"pointer": "/params", "detail": "an integer is beyond 64 bits"}]
    problem = await open_with(shared, "ws://127.0.0.1:1/", "Recorder", {"note": [2**64]}, status=422)
    assert problem["errors"] == [{"pointer": "/handler/params", "detail": "an integer is beyond 64 bits"}]
    problem = await call(shared, "huge", status=422)
    assert "70000002 bytes of JSON" in problem["message"]
    assert await call(shared, "add", 1, 1) == 2


async def test_a_call_under_which_the_worker_dies_answers_502(shared: RunningService, worker: str) -> None:
    problem = await call(shared, "die", worker=worker, status=502)
    assert problem["type"] == "urn:mooring:problem:worker-died"
    assert await call(shared, "add", 1, 1, worker=worker) == 2, "the next finds a new process"


async def test_a_call_without_waiting_is_202_and_its_failure_an_event(shared: RunningService, worker: str) -> None:
    await call_later(shared, "remember", "later", worker=worker)
    await wait_for(lambda: has_seen(shared, worker, ["later"]))
    await call_later(shared, "fail", worker=worker)
    (error,) = await wait_for(lambda: _callback_errors(shared, worker))
    assert (error["callback"], error["exception"]) == ("fail", "LookupError")


async def _callback_errors(service: RunningService, worker: str) -> list[dict[str, Any]]:
    page = await service.get(f"/v1/workers/{worker}/events?after=start&kind=callbackError")
    return [event["event"] for event in page["events"]]


async def test_call_worker_reaches_another_worker_in_order_with_copied_parameters(
    shared: RunningService, worker: str
) -> None:
    assert await call(shared, "tell", "told", *range(20), worker=worker) == "told"
    await wait_for(lambda: has_seen(shared, "told", list(range(20))))
    assert await seen_by(shared, worker) == []
    await call(shared, "mutate", "third", worker=worker)
    await wait_for(lambda: has_seen(shared, "third", [[1]]))


async def test_state_lives_in_module_globals_until_the_worker_is_killed(shared: RunningService, worker: str) -> None:
    await call(shared, "remember", "a", worker=worker)
    await call(shared, "remember", "b", worker=worker)
    assert await seen_by(shared, worker) == ["a", "b"]
    assert await shared.call("DELETE", f"/v1/workers/{worker}") == {"discarded": 0, "closed": 0}
    assert await seen_by(shared, worker) == []


async def test_kill_worker_without_a_name_ends_the_caller_after_the_running_item(
    shared: RunningService, worker: str
) -> None:
    await call(shared, "remember", "before", worker=worker)
    assert await call(shared, "kill", worker=worker) == "still here", "the running item ends"
    await wait_for(lambda: _no_worker(shared, worker))
    assert await seen_by(shared, worker) == []


async def test_nothing_of_the_mailbox_runs_after_kill_worker(
    shared: RunningService, worker: str, tmp_path: Path
) -> None:
    async with held(shared, worker):
        await call_later(shared, "append_to", str(tmp_path / "ran"), "before", worker=worker)
        await call_later(shared, "kill_at_once", worker=worker)
        for _ in range(30):
            await call_later(shared, "append_to", str(tmp_path / "ran"), "after", worker=worker)
    await wait_for(lambda: _no_worker(shared, worker))
    assert (tmp_path / "ran").read_text() == "before"


async def _no_worker(service: RunningService, name: str) -> bool:
    return all(worker["name"] != name for worker in (await service.get("/v1/workers"))["workers"])


async def test_a_call_to_a_name_just_killed_runs_in_a_new_process(shared: RunningService, worker: str) -> None:
    old = await call(shared, "pid", worker=worker)
    await call(shared, "kill_then_call", worker, worker="killer")
    await wait_for(lambda: has_seen(shared, worker, ["after the kill"]))
    assert await call(shared, "pid", worker=worker) != old


async def test_a_kill_discards_what_is_pending_and_counts_it(shared: RunningService, worker: str) -> None:
    async with held(shared, worker) as hold:
        for _ in range(5):
            await call_later(shared, "remember", 1, worker=worker)
        killing = asyncio.create_task(shared.call("DELETE", f"/v1/workers/{worker}"))
        await wait_for(lambda: _is_stopping(shared, worker))
        begun = time.monotonic()
        hold.release()
        assert await killing == {"discarded": 5, "closed": 0}
        assert time.monotonic() - begun < STOP_S / 2, "once the call has ended, nothing is waited for"
        assert await hold.call == "released"


async def _is_stopping(service: RunningService, worker: str) -> bool:
    return (await service.get(f"/v1/workers/{worker}"))["status"] == "Stopping"


async def test_a_drain_runs_what_was_asked_and_what_comes_meanwhile_runs_in_the_new_process(
    shared: RunningService, worker: str
) -> None:
    """Row 14 of the review."""
    path = f"/v1/workers/{worker}/calls"
    async with held(shared, worker) as hold:
        for number in (1, 2):
            await call_later(shared, "remember", number, worker=worker)
        seen = asyncio.create_task(shared.call("POST", path, json={"function": "get_seen"}))
        await wait_for(lambda: _waiting(shared, worker, 3))
        before = (await shared.get(f"/v1/workers/{worker}"))["pid"]
        await shared.call("POST", f"/v1/workers/{worker}/drain", 202)
        later = asyncio.create_task(shared.call("POST", path, json={"function": "pid"}))
        await asyncio.sleep(0.3)
        hold.release()
        assert (await seen)["result"] == [1, 2]
        assert await hold.call == "released"
    assert (await later)["result"] != before
    assert (await shared.get(f"/v1/workers/{worker}"))["draining"] is False


async def _waiting(service: RunningService, worker: str, count: int) -> bool:
    return (await service.get(f"/v1/workers/{worker}"))["mailbox"] == count


async def test_a_full_mailbox_refuses_calls_and_loses_none_that_it_took(start_service: StartService) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_MAILBOX_ITEMS": "20"})
    path = "/v1/workers/main/calls"
    async with held(service):
        calls = [
            asyncio.create_task(service.call("POST", path, None, json={"function": "add", "params": [n]}))
            for n in range(60)
        ]
        await wait_for(lambda: sum(task.done() for task in calls) == 40)
    answers = await asyncio.gather(*calls)
    refused = [answer for answer in answers if answer.get("status") == 503]
    taken = [(n, answer["result"]) for n, answer in enumerate(answers) if "result" in answer]
    # Which twenty: those whose requests happened to arrive first.
    assert len(taken) == 20
    assert all(result == n + 1 for n, result in taken)
    assert len(refused) == 40
    assert "mailbox" in refused[0]["detail"]


async def test_a_worker_that_does_not_end_is_killed_hard_and_its_ends_are_reported(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        *options(), env={"MOORING_SUPERVISOR_STOP_TIMEOUT": "1", "MOORING_SUPERVISOR_KILL_TIMEOUT": "0.5"}
    )
    record = await open_with(service, echo.url, "Stubborn")
    await service.send(record["id"], "sleep for a minute")
    await wait_for(lambda: is_running(service, "main", "Stubborn.on_message"))
    begun = time.monotonic()
    killed = await service.call("DELETE", "/v1/workers/main")
    assert time.monotonic() - begun < 30, "its callback sleeps for a minute"
    assert killed["closed"] == 1
    events = await service.events(record["id"], until="onTerminate")
    assert events[-1]["kind"] == "onTerminate"


async def test_worker_verbs(shared: RunningService) -> None:
    created = await shared.call("PUT", "/v1/workers/jobs", 201)
    assert (created["name"], created["status"]) == ("jobs", "Running")
    again = await shared.call("PUT", "/v1/workers/jobs", 200)
    assert again["pid"] == created["pid"]
    assert "jobs" in [worker["name"] for worker in (await shared.get("/v1/workers"))["workers"]]
    assert set(created) >= {
        "name",
        "status",
        "pid",
        "startedAt",
        "restarts",
        "connections",
        "mailbox",
        "running",
        "cpu",
        "rss",
    }
    await shared.call("DELETE", "/v1/workers/jobs")
    assert (await shared.call("DELETE", "/v1/workers/jobs", 404))["type"] == "urn:mooring:problem:worker-not-found"
    assert (await shared.call("PUT", "/v1/workers/..%2Fetc", 422))["status"] == 422


async def test_what_code_in_workers_opens_counts_for_the_limit_of_the_service(
    start_service: StartService, echo: EchoServer
) -> None:
    """L6 of the review."""
    service = await start_service(*options(), env={"MOORING_LIMITS_MAX_CONNECTIONS": "3"})
    first = await service.open(echo.url)
    for _ in range(2):
        assert (await call(service, "try_new", echo.url))[0] == "Connected"
    problem = await call(service, "try_new", echo.url, status=422)
    assert (problem["exception"], problem["message"]) == ("LimitReached", "limit reached: limits.max_connections = 3")
    assert (await service.open(echo.url, 429))["setting"] == "limits.max_connections"
    await service.call("DELETE", f"/v1/connections/{first['id']}")
    assert (await call(service, "try_new", echo.url))[0] == "Connected"
