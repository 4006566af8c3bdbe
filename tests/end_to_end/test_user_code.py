"""User code that misbehaves, and user code that cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import SERVICE, call, open_with, options, seen_by  # noqa: F401 - SERVICE is for `shared`
from tests.servers import EchoServer


@pytest.mark.parametrize(
    ("message", "exception"),
    [
        ("exit", "SystemExit"),
        ("base", "KeyboardInterrupt"),
        ("raise", "ValueError"),
        ("recursion", "RecursionError"),
        ("bad terminate", "InvalidRequest"),
        ("bad send", "TypeError"),
    ],
)
async def test_what_a_callback_raises_is_an_event_and_the_connection_stays(
    shared: RunningService, echo: EchoServer, message: str, exception: str
) -> None:
    record = await open_with(shared, echo.url, "Misbehaves")
    restarts = (await shared.get("/v1/workers/main"))["restarts"]
    await shared.send(record["id"], message)
    events = await shared.events(record["id"], until="callbackError")
    error = events[-1]["event"]
    assert error["type"] == "callbackError"
    assert error["callback"] == "on_message"
    assert error["exception"] == exception
    assert "user_code.py" in error["traceback"]
    await shared.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    assert (await shared.record(record["id"]))["status"] == "Connected"
    assert (await shared.get("/v1/workers/main"))["restarts"] == restarts


def _echoed(echo: EchoServer, text: str) -> bool:
    return any(text in peer.received for peer in echo.peers)


async def test_a_task_of_user_code_that_exits_does_not_end_the_context(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await open_with(shared, echo.url, "AsyncMisbehaves")
    await shared.send(record["id"], "task")
    await asyncio.sleep(0.2)
    await shared.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))


async def test_a_flood_of_output_goes_to_the_log_and_blocks_nothing(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    record = await open_with(shared, echo.url, "Misbehaves", worker=worker)
    for message in ("log", "flood", "end"):
        await shared.send(record["id"], message)
    await wait_for(lambda: _echoed(echo, "alive: end"))
    text = shared.worker_log(worker)
    assert "printed by user code" in text
    logged = next(json.loads(line) for line in text.splitlines() if "logged by user code" in line)
    assert logged.items() >= {"level": "warning", "logger": "theirs", "connection": record["id"]}.items()
    assert len(text) > 2_000_000


async def test_a_log_that_takes_nothing_keeps_no_connection_waiting_and_no_worker_alive(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    """What mooring says on the I/O loop: a disk under the log that is slow or full would stop all sockets."""
    record = await open_with(shared, echo.url, "Misbehaves", worker=worker)
    await call(shared, "stall_log", worker=worker)
    pid = (await shared.get(f"/v1/workers/{worker}"))["pid"]
    for _ in range(100):  # each a line, and signals that meet are one
        os.kill(pid, signal.SIGHUP)
        await asyncio.sleep(0.005)
    await shared.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    await shared.call("DELETE", f"/v1/workers/{worker}")
    await _ended_by_itself(shared, worker)


async def _ended_by_itself(service: RunningService, worker: str) -> None:
    """Check that nobody has had to end the last process of a worker."""

    async def exits() -> list[dict[str, Any]]:
        page = await service.get(f"/v1/events?after=start&kind=workerExited&worker={worker}")
        return [event["event"] for event in page["events"]]

    last = (await wait_for(exits))[-1]
    assert (last["signal"], last["exitCode"]) == (None, 0), last


async def test_what_callbacks_raise_is_in_the_workers_log_and_does_not_flood_it(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    record = await open_with(shared, echo.url, "Misbehaves", worker=worker)
    begun = time.monotonic()
    for _ in range(200):
        await echo_send(echo, "raise")
    await echo_send(echo, "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    # What it logs is written by a thread, in order: behind this line stands nothing of before.
    os.kill((await shared.get(f"/v1/workers/{worker}"))["pid"], signal.SIGHUP)
    await wait_for(lambda: '"SIGHUP is for the service"' in shared.worker_log(worker).rpartition("\n")[0])
    windows = 1 + int((time.monotonic() - begun) // 10)
    log = shared.worker_log(worker).rpartition("\n")[0]
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    failed = r"on_message has failed: ValueError: user code is wrong \ud800"
    failures = [line for line in lines if line["event"].startswith(failed)]
    assert 5 <= len(failures) <= 5 * windows, "five within ten seconds"
    assert failures[0].items() >= {
        "level": "error", "logger": "mooring.context", "worker": worker, "connection": record["id"],
    }.items()  # fmt: skip
    assert failures[0]["exception"].startswith("Traceback")
    assert len(failures[0]["incarnation"]) == 16
    await call(shared, "fail", worker=worker, status=422)


async def test_user_code_that_breaks_logging_breaks_only_its_own(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(*options(), env={"MOORING_SUPERVISOR_STOP_TIMEOUT": "300"})
    record = await open_with(service, echo.url, "Misbehaves")
    for message in ("hostile logging", "raise"):
        await service.send(record["id"], message)
    await service.events(record["id"], until="callbackError")
    await service.kill()
    await service.start()
    await wait_for(lambda: _running(service))
    await service.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    await wait_for(lambda: service.worker_log().count("linked with the service again") == 1)
    # It ends by itself: nobody would end it for five minutes.
    await asyncio.wait_for(service.call("DELETE", "/v1/workers/main"), 60)


async def test_output_after_the_service_was_killed_breaks_nothing(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(*options())
    record = await open_with(service, echo.url, "Misbehaves")
    await service.kill()
    await echo_send(echo, "flood")
    await echo_send(echo, "after the flood")
    await wait_for(lambda: _echoed(echo, "alive: after the flood"))
    await service.start()
    await wait_for(lambda: _running(service))
    assert (await service.record(record["id"]))["status"] == "Connected"


async def echo_send(echo: EchoServer, text: str) -> None:
    await echo.sockets[0].send_str(text)


async def _running(service: RunningService) -> bool:
    workers = (await service.get("/v1/workers"))["workers"]
    return bool(workers) and workers[0]["status"] == "Running"


async def test_send_from_a_thread_and_terminate_inside_a_callback(shared: RunningService, echo: EchoServer) -> None:
    record = await open_with(shared, echo.url, "Misbehaves")
    await shared.send(record["id"], "thread")
    await wait_for(lambda: _echoed(echo, "from a thread"))
    await shared.send(record["id"], "terminate")
    events = await shared.events(record["id"], until="onTerminate")
    await wait_for(lambda: echo.peers[0].close_code == 4001)
    assert "Closing" in await seen_by(shared), "the status says so at once"
    (end,) = (event["event"] for event in events if event["kind"] == "onTerminate")
    assert end["wasClean"] is True


async def test_in_on_terminate_the_connection_is_over(shared: RunningService, worker: str, echo: EchoServer) -> None:
    record = await open_with(shared, echo.url, "Misbehaves", worker=worker)
    await shared.send(record["id"], "twice")
    events = await shared.events(record["id"], until="callbackError")
    assert [event["kind"] for event in events][-2:] == ["onTerminate", "callbackError"]
    assert events[-1]["event"]["callback"] == "on_terminate"
    assert "ConnectionClosed" in await seen_by(shared, worker)
    async with shared.client.get(
        f"/v1/connections/{record['id']}/events", headers={"Accept": "application/x-ndjson"}
    ) as response:
        assert (await response.text()).count("callbackError") >= 1, "the stream ends after it"


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        ("absent", "No module named 'no_such_module'"),
        ("typo", "has no 'Recoder'"),
        ("Broken", "OSError: no such database"),
        ("BrokenWithoutMessage", "NoMessage: <its message cannot be had: RuntimeError>"),
        ("BrokenOptions", "its options cannot be read: LookupError: no token"),
        ("WrongOption", "WrongOption.connect_timeout: must be 0.001 to 86400 seconds"),
        ("make_later", "it returned coroutine, not a handler"),
        ("Spelled4D", "Spelled4D.onMessage: in Python it is spelled on_message"),
    ],
)
async def test_a_handler_that_cannot_be_used_says_why(
    shared: RunningService, echo: EchoServer, handler: str, text: str
) -> None:
    problem = await open_with(shared, echo.url, handler, status=422)
    assert text in problem["errors"][0]["detail"]
    assert echo.peers == []


async def test_only_names_of_the_configuration_are_taken(shared: RunningService, echo: EchoServer) -> None:
    problem = await open_with(shared, echo.url, "Recordr", status=422)
    assert "Recorder" in problem["detail"], "the nearest known name"
    assert (await call(shared, "os:system", "id", status=422))["type"] == "urn:mooring:problem:unknown-function"
    problem = await open_with(shared, echo.url, "Recorder", {"unknown": 1}, status=422)
    assert "unexpected keyword argument 'unknown'" in problem["errors"][0]["detail"]
