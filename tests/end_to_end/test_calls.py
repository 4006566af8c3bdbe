"""Calls between workers and by request, and workers that are killed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import SERVICE, _has_seen, _is_running, call, open_with, options, seen_by  # noqa: F401 - SERVICE is read by `module_service`
from tests.servers import EchoServer


@pytest.fixture
async def service(start_service: StartService) -> RunningService:
    return await start_service(*options())


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


async def test_a_call_under_which_the_worker_dies_answers_502(service: RunningService) -> None:
    problem = await call(service, "die", status=502)
    assert problem["type"] == "urn:mooring:problem:worker-died"
    assert await call(service, "add", 1, 1) == 2, "the next finds a new process"


async def test_a_call_without_waiting_is_202_and_its_failure_an_event(service: RunningService) -> None:
    prefer = {"Prefer": "respond-async"}
    body = {"function": "remember", "params": ["later"]}
    await service.call("POST", "/v1/workers/main/calls", 202, json=body, headers=prefer)
    await wait_for(lambda: _has_seen(service, "main", ["later"]))
    await service.call("POST", "/v1/workers/main/calls", 202, json={"function": "fail"}, headers=prefer)
    (error,) = await wait_for(lambda: _callback_errors(service))
    assert (error["callback"], error["exception"]) == ("fail", "LookupError")


async def _callback_errors(service: RunningService) -> list[dict[str, Any]]:
    page = await service.get("/v1/events?after=start&kind=callbackError")
    return [event["event"] for event in page["events"]]


async def test_call_worker_reaches_another_worker_in_order_with_copied_parameters(service: RunningService) -> None:
    assert await call(service, "tell", "other", *range(20)) == "told"
    await wait_for(lambda: _has_seen(service, "other", list(range(20))))
    assert await seen_by(service, "main") == []
    await call(service, "mutate", "third")
    await wait_for(lambda: _has_seen(service, "third", [[1]]))


async def test_state_lives_in_module_globals_until_the_worker_is_killed(service: RunningService) -> None:
    await call(service, "remember", "a")
    await call(service, "remember", "b")
    assert await seen_by(service) == ["a", "b"]
    assert await service.call("DELETE", "/v1/workers/main") == {"discarded": 0, "closed": 0}
    assert await seen_by(service) == []


async def test_kill_worker_without_a_name_ends_the_caller_after_the_running_item(service: RunningService) -> None:
    await call(service, "remember", "before")
    assert await call(service, "kill") == "still here", "the running item ends"
    await wait_for(lambda: _no_worker(service, "main"))
    assert await seen_by(service) == []


async def test_nothing_of_the_mailbox_runs_after_kill_worker(service: RunningService, tmp_path: Path) -> None:
    running = asyncio.create_task(call(service, "sleep", 3))
    await wait_for(lambda: _is_running(service, "sleep"))
    calls: list[dict[str, Any]] = [{"function": "append_to", "params": [str(tmp_path / "ran"), "before"]}]
    calls += [{"function": "kill_at_once"}]
    calls += [{"function": "append_to", "params": [str(tmp_path / "ran"), "after"]}] * 30
    for body in calls:
        await service.call("POST", "/v1/workers/main/calls", 202, json=body, headers={"Prefer": "respond-async"})
    await running
    await wait_for(lambda: _no_worker(service, "main"))
    assert (tmp_path / "ran").read_text() == "before"


async def _no_worker(service: RunningService, name: str) -> bool:
    return all(worker["name"] != name for worker in (await service.get("/v1/workers"))["workers"])


async def test_a_call_to_a_name_just_killed_runs_in_a_new_process(service: RunningService) -> None:
    old = await call(service, "pid", worker="b")
    await call(service, "kill_then_call", "b", worker="a")
    await wait_for(lambda: _has_seen(service, "b", ["after the kill"]))
    assert await call(service, "pid", worker="b") != old


async def test_a_kill_discards_what_is_pending_and_counts_it(service: RunningService) -> None:
    running = asyncio.create_task(call(service, "sleep", 2.5))
    await wait_for(lambda: _is_running(service, "sleep"))
    body = {"function": "remember", "params": [1]}
    for _ in range(5):
        await service.call("POST", "/v1/workers/main/calls", 202, json=body, headers={"Prefer": "respond-async"})
    begun = time.monotonic()
    assert await service.call("DELETE", "/v1/workers/main") == {"discarded": 5, "closed": 0}
    assert time.monotonic() - begun < 5
    assert await running == "slept"


async def test_a_full_mailbox_refuses_calls_and_loses_none_that_it_took(start_service: StartService) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_MAILBOX_ITEMS": "20"})
    running = asyncio.create_task(call(service, "sleep", 4))
    await wait_for(lambda: _is_running(service, "sleep"))
    calls = [asyncio.create_task(service.call("POST", "/v1/workers/main/calls", None, json={"function": "add", "params": [n]})) for n in range(60)]  # fmt: skip
    answers = await asyncio.gather(*calls)
    refused = [answer for answer in answers if answer.get("status") == 503]
    taken = [(n, answer["result"]) for n, answer in enumerate(answers) if "result" in answer]
    # Which twenty: those whose requests happened to arrive first.
    assert len(taken) == 20
    assert all(result == n + 1 for n, result in taken)
    assert len(refused) == 40
    assert "mailbox" in refused[0]["detail"]
    await running


async def test_a_worker_that_does_not_end_is_killed_hard_and_its_ends_are_reported(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        *options(), env={"MOORING_SUPERVISOR_STOP_TIMEOUT": "1", "MOORING_SUPERVISOR_KILL_TIMEOUT": "0.5"}
    )
    record = await open_with(service, echo.url, "Stubborn")
    await service.send(record["id"], "sleep for a minute")
    await wait_for(lambda: _is_running(service, "Stubborn.on_message"))
    begun = time.monotonic()
    killed = await service.call("DELETE", "/v1/workers/main")
    assert time.monotonic() - begun < 4
    assert killed["closed"] == 1
    events = await service.events(record["id"], until="onTerminate")
    assert events[-1]["kind"] == "onTerminate"


async def test_worker_verbs(service: RunningService) -> None:
    created = await service.call("PUT", "/v1/workers/jobs", 201)
    assert (created["name"], created["status"]) == ("jobs", "Running")
    again = await service.call("PUT", "/v1/workers/jobs", 200)
    assert again["pid"] == created["pid"]
    listed = await service.get("/v1/workers")
    assert [worker["name"] for worker in listed["workers"]] == ["jobs"]
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
    await service.call("DELETE", "/v1/workers/jobs")
    assert (await service.call("DELETE", "/v1/workers/jobs", 404))["type"] == "urn:mooring:problem:worker-not-found"
    assert (await service.call("PUT", "/v1/workers/..%2Fetc", 422))["status"] == 422
