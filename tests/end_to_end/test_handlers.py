"""Handlers and calls: user code in the worker's context."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.servers import EchoServer, FeedServer, RawConnection, RawServer, frame

HANDLERS = ("Recorder", "AsyncRecorder", "OnlyMessages", "Sorter", "Stubborn", "Sleeper", "Busy", "Counter", "Overlap", "Marker", "Misbehaves", "AsyncMisbehaves", "Opens", "Broken", "BrokenWithoutMessage", "BrokenOptions", "WrongOption", "make_later")  # fmt: skip
FUNCTIONS = ("get_seen", "get_counts", "get_overlap", "add", "add_slowly", "remember", "fail", "pid", "sleep", "die", "tell", "mutate", "kill", "kill_then_call", "try_new", "unserialisable", "huge", "append_to", "kill_at_once")  # fmt: skip


def options() -> list[str]:
    found = ["--app-dir", str(ROOT)]
    for name in HANDLERS:
        found += ["--handler", f"{name}=tests.end_to_end.user_code:{name}"]
    for name in FUNCTIONS:
        found += ["--function", f"{name}=tests.end_to_end.user_code:{name}"]
    found += ["--handler", "absent=no_such_module:Thing", "--handler", "typo=tests.end_to_end.user_code:Recoder"]
    found += ["--function", "absent=no_such_module:thing"]
    return found


SERVICE = (options(), {})  # of `shared`: for tests that leave nothing behind in the worker "main"


@pytest.fixture
async def service(start_service: StartService) -> RunningService:
    return await start_service(*options())


async def call(service: RunningService, function: str, *params: Any, worker: str = "main", status: int = 200) -> Any:
    answer = await service.call(
        "POST", f"/v1/workers/{worker}/calls", status, json={"function": function, "params": list(params)}
    )
    return answer["result"] if status == 200 else answer


async def open_with(service: RunningService, url: str, handler: str, params: Any = None, **more: Any) -> dict[str, Any]:
    return await service.open(url, handler={"name": handler, "params": params or {}}, **more)


async def seen_by(service: RunningService, worker: str = "main") -> list[Any]:
    return await call(service, "get_seen", worker=worker)


@pytest.mark.parametrize("handler", ["Recorder", "AsyncRecorder"])
async def test_callbacks_come_in_4ds_order_and_see_what_4d_shows(
    service: RunningService, echo: EchoServer, handler: str
) -> None:
    record = await open_with(service, f"{echo.url}push?count=2", handler, {"note": "x"})
    assert record["handler"] == handler
    await service.events(record["id"], count=3)
    await service.call("DELETE", f"/v1/connections/{record['id']}?code=4000&reason=done")
    events = await service.events(record["id"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onMessage", "onTerminate"]
    number = record["id"]
    assert await seen_by(service) == [
        [number, "open", "Connected"],
        [number, "message", "1"],
        [number, "message", "2"],
        [number, "terminate", 1000, "", True, "Closed"],
    ]


ENDS = ["peer closes", "reset", "protocol error", "bad data", "too big", "silence", "refused", "no handshake", "terminate", "terminate while Connecting", "worker killed", "process killed"]  # fmt: skip
FAILED_DIALS = ("refused", "no handshake", "terminate while Connecting")
FAILED = (*FAILED_DIALS, "reset", "protocol error", "bad data", "too big", "silence")


async def test_under_auto_a_handler_gets_text_as_str_and_binary_as_bytes(
    service: RunningService, echo: EchoServer
) -> None:
    record = await open_with(service, echo.url, "Sorter")
    assert record["dataType"] == "auto", "an attribute of the handler, too"
    await service.send(record["id"], "Grüße")
    await service.send(record["id"], b"\xff\x00", "application/octet-stream")
    events = await service.events(record["id"], count=3)
    assert [event["event"] for event in events[1:]] == [
        {"type": "message", "data": "Grüße"},
        {"type": "message", "data": "/wA=", "encoding": "base64"},
    ]
    assert await seen_by(service) == [["auto", "str", "Grüße"], ["auto", "bytes", "/wA="]]


@pytest.mark.parametrize("how", ENDS)
async def test_however_a_connection_ends_on_terminate_is_the_last_and_comes_once(
    shared: RunningService, how: str
) -> None:
    async def script(connection: RawConnection) -> None:
        if how in FAILED_DIALS:
            await asyncio.sleep(30)
        await connection.accept(after=frame(1, b"hi"))
        if how == "reset":
            await asyncio.sleep(0.05)
            connection.reset()
        elif how == "silence":
            await asyncio.sleep(30)
        elif how == "peer closes":
            connection.writer.write(frame(8, (4004).to_bytes(2, "big") + b"bye"))
        elif how in wrong:
            connection.writer.write(wrong[how])
        await connection.read_close()

    wrong = {"protocol error": frame(3, b"?"), "bad data": frame(1, b"\xff"), "too big": frame(1, b"x" * 100)}
    options = {"maxMessageSize": 50, "pingInterval": 0.2, "pingTimeout": 0.2} if how in ("silence", "too big") else {}
    async with RawServer(script) as server:
        if how == "refused":
            number = (await open_with(shared, "ws://127.0.0.1:1/", "Recorder", status=502))["connection"]
        elif how == "no handshake":
            problem = await open_with(shared, server.url, "Recorder", status=504, connectTimeout=0.3)
            number = problem["connection"]
        elif how == "terminate while Connecting":
            prefer = {"Prefer": "respond-async"}
            number = (await open_with(shared, server.url, "Recorder", status=202, request_headers=prefer))["id"]
            await wait_for(lambda: server.connections)
        else:
            number = (await open_with(shared, server.url, "Recorder", **options))["id"]
            await shared.events(number, count=2)
        if how.startswith("terminate"):
            await shared.call("DELETE", f"/v1/connections/{number}")
        elif how == "worker killed":
            assert await shared.call("DELETE", "/v1/workers/main") == {"discarded": 0, "closed": 1}
        elif how == "process killed":
            os.kill((await shared.get("/v1/workers/main"))["pid"], signal.SIGKILL)
        events = await shared.events(number, until="onTerminate")
        kinds = [event["kind"] for event in events]
        assert kinds.count("onTerminate") == 1 and kinds[-1] == "onTerminate"
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        middle = [] if how in FAILED_DIALS else ["onOpen", "onMessage"]
        assert kinds[:-1] == middle + (["onError"] if how in FAILED else []), "after onError only onTerminate"
        end = events[-1]["event"]
        if how == "peer closes":
            assert (end["code"], end["reason"], end["wasClean"]) == (4004, "bye", True)
        else:
            assert (end["code"], end["wasClean"]) == (1006, False)
        if how not in ("worker killed", "process killed"):
            noted = [entry[1] for entry in await seen_by(shared) if entry[0] == number]
            assert noted == [kind[2:].lower() for kind in kinds]


async def test_two_connections_of_one_worker_never_run_callbacks_at_once(
    service: RunningService, echo: EchoServer
) -> None:
    for _ in range(2):
        await open_with(service, f"{echo.url}push?count=20", "Overlap")
    await wait_for(lambda: _messages(service, 40))
    assert await call(service, "get_overlap") == {"now": 0, "most": 1}


async def _messages(service: RunningService, count: int) -> bool:
    page = await service.get("/v1/events?after=start&kind=onMessage&limit=1000")
    return len(page["events"]) >= count


async def test_two_workers_do(service: RunningService, echo: EchoServer) -> None:
    first = await open_with(service, echo.url, "Marker", worker="a")
    second = await open_with(service, echo.url, "Marker", worker="b")
    await asyncio.gather(*(service.send(record["id"], "x") for record in (first, second)))

    async def both() -> list[Any] | None:
        found = [await seen_by(service, "a"), await seen_by(service, "b")]
        return found if all(found) else None

    (((begin_a, end_a),), ((begin_b, end_b),)) = await wait_for(both)
    assert max(begin_a, begin_b) < min(end_a, end_b), "they overlap in time"


async def test_a_callback_that_sleeps_costs_no_pong_and_is_shown(service: RunningService, echo: EchoServer) -> None:
    record = await open_with(service, f"{echo.url}ping?within=2", "Sleeper")
    await asyncio.sleep(2.5)
    worker = await service.get("/v1/workers/main")
    assert worker["running"]["name"] == "Sleeper.on_open"
    assert worker["running"]["seconds"] > 1
    assert echo.peers[0].ponged
    assert (await service.record(record["id"]))["status"] == "Connected"
    await asyncio.sleep(6)
    events = await service.events(record["id"], count=2)
    assert events[1]["event"]["data"] == "ponged", "what came meanwhile is not lost"


async def test_a_callback_in_a_busy_loop_costs_no_pong(service: RunningService, echo: EchoServer) -> None:
    await open_with(service, f"{echo.url}ping?within=2", "Busy")
    await wait_for(lambda: echo.peers and echo.peers[0].ponged, 3)


async def test_a_stalled_handler_pauses_its_socket_and_loses_nothing(start_service: StartService) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_INBOUND_MESSAGES": "100"})
    async with FeedServer(rate=20_000, size=500) as feed:
        record = await open_with(service, feed.url, "Counter")
        running = asyncio.create_task(call(service, "sleep", 3))
        await wait_for(lambda: _paused(service), 5)
        assert (await service.get("/v1/workers/main"))["rss"] < 200 * 2**20
        await running
        await feed.stop_sending()
        await wait_for(lambda: _counted(service, record["id"], feed.sent["/"]), 20)
        assert feed.ends == []


async def test_a_stalled_handler_does_not_keep_its_connection_from_closing_in_order(
    start_service: StartService,
) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_INBOUND_MESSAGES": "100"})
    async with FeedServer(rate=20_000, size=500) as feed:
        record = await open_with(service, feed.url, "Counter")
        running = asyncio.create_task(call(service, "sleep", 4))
        await wait_for(lambda: _paused(service))
        closed = await service.call("DELETE", f"/v1/connections/{record['id']}")
        assert closed["terminate"]["wasClean"], closed["terminate"]
        assert not running.done(), "nobody waited for the handler"
        await running
        (end,) = (await service.events(record["id"], "onTerminate"))[-1:]
        assert end["event"]["wasClean"]


async def _paused(service: RunningService) -> bool:
    return (await service.get("/v1/workers/main"))["paused"] == 1


async def _counted(service: RunningService, connection: int, count: int) -> bool:
    return (await call(service, "get_counts")).get(str(connection)) == count


async def test_100000_messages_through_a_handler_none_missing_in_order(
    service: RunningService, echo: EchoServer
) -> None:
    record = await open_with(service, f"{echo.url}push?count=100000", "Counter")
    await wait_for(lambda: _counted(service, record["id"], 100_000), 60)
    errors = await service.get("/v1/events?after=start&kind=callbackError")
    assert errors["events"] == []
    assert (await service.record(record["id"]))["stats"]["messagesIn"] == 100_000


async def test_a_handlers_attributes_are_create_options_and_the_body_beats_them(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await open_with(shared, echo.url, "OnlyMessages")
    assert record["dataType"] == "object"
    assert record["headers"] == {"X-From": "***"}
    assert echo.peers[0].headers["X-From"] == "handler"
    other = await open_with(shared, echo.url, "OnlyMessages", dataType="text", headers={"x-from": "body", "Y": "z"})
    assert other["dataType"] == "text"
    assert (echo.peers[1].headers["X-From"], echo.peers[1].headers["Y"]) == ("body", "z")


async def test_new_works_inside_a_callback_and_its_callbacks_follow(service: RunningService, echo: EchoServer) -> None:
    await open_with(service, echo.url, "Opens", {"url": echo.url})
    seen = await wait_for(lambda: _seen_message(service, "from the inner one"))
    inner = next(entry for entry in seen if entry[0] == "inner")
    assert inner == ["inner", inner[1], echo.url, "text", "Recorder"]
    record = await service.record(inner[1])
    assert (record["status"], record["worker"]) == ("Connected", "main")
    assert [entry[1] for entry in seen if entry[0] == inner[1]] == ["open", "message"]


async def _seen_message(service: RunningService, data: str) -> list[Any] | None:
    seen = await seen_by(service)
    return seen if any(entry[1:] == ["message", data] for entry in seen) else None


async def test_new_raises_connect_error_and_the_record_shows_it(shared: RunningService, echo: EchoServer) -> None:
    assert await call(shared, "try_new", "ws://127.0.0.1:1/") == ["ConnectError", 102]
    status, number = await call(shared, "try_new", echo.url)
    assert status == "Connected"
    assert (await shared.record(number))["handler"] == "Recorder"


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


async def test_a_flood_of_output_goes_to_the_log_and_blocks_nothing(service: RunningService, echo: EchoServer) -> None:
    record = await open_with(service, echo.url, "Misbehaves")
    for message in ("log", "flood", "end"):
        await service.send(record["id"], message)
    await wait_for(lambda: _echoed(echo, "alive: end"), 15)
    text = service.worker_log()
    assert "printed by user code" in text
    logged = next(json.loads(line) for line in text.splitlines() if "logged by user code" in line)
    assert logged.items() >= {"level": "warning", "logger": "theirs", "connection": record["id"]}.items()
    assert len(text) > 2_000_000


async def test_what_callbacks_raise_is_in_the_workers_log_and_does_not_flood_it(
    service: RunningService, echo: EchoServer
) -> None:
    record = await open_with(service, echo.url, "Misbehaves")
    for _ in range(200):
        await service.send(record["id"], "raise")
    await service.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    lines = [json.loads(line) for line in service.worker_log().splitlines() if line.startswith("{")]
    failed = r"on_message has failed: ValueError: user code is wrong \ud800"
    failures = [line for line in lines if line["event"] == failed]
    assert len(failures) == 5
    assert failures[0].items() >= {
        "level": "error", "logger": "mooring.context", "worker": "main", "connection": record["id"],
    }.items()  # fmt: skip
    assert failures[0]["exception"].startswith("Traceback")
    assert len(failures[0]["incarnation"]) == 16
    await call(service, "fail", status=422)


async def test_user_code_that_breaks_logging_breaks_only_its_own(service: RunningService, echo: EchoServer) -> None:
    record = await open_with(service, echo.url, "Misbehaves")
    for message in ("hostile logging", "raise"):
        await service.send(record["id"], message)
    await service.events(record["id"], until="callbackError")
    await service.kill()
    await service.start()
    await wait_for(lambda: _running(service))
    await service.send(record["id"], "hello")
    await wait_for(lambda: _echoed(echo, "alive: hello"))
    assert service.worker_log().count("linked with the service again") == 1
    begun = time.monotonic()
    await service.call("DELETE", "/v1/workers/main")
    assert time.monotonic() - begun < 3, "it ended by itself"


async def test_output_after_the_service_was_killed_breaks_nothing(service: RunningService, echo: EchoServer) -> None:
    record = await open_with(service, echo.url, "Misbehaves")
    await service.kill()
    await echo_send(echo, "flood")
    await echo_send(echo, "after the flood")
    await wait_for(lambda: _echoed(echo, "alive: after the flood"), 15)
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


async def test_in_on_terminate_the_connection_is_over(service: RunningService, echo: EchoServer) -> None:
    record = await open_with(service, echo.url, "Misbehaves")
    await service.send(record["id"], "twice")
    events = await service.events(record["id"], until="callbackError")
    assert [event["kind"] for event in events][-2:] == ["onTerminate", "callbackError"]
    assert events[-1]["event"]["callback"] == "on_terminate"
    assert "ConnectionClosed" in await seen_by(service)
    async with service.client.get(
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


async def _has_seen(service: RunningService, worker: str, values: list[Any]) -> bool:
    return await seen_by(service, worker) == values


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


async def _is_running(service: RunningService, name: str) -> bool:
    workers = (await service.get("/v1/workers"))["workers"]
    running = workers[0]["running"] if workers else None
    return running is not None and running["name"] == name


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


async def _busy_then_connecting(service: RunningService, url: str, handler: str, **params: Any) -> int:
    """Have the worker busy for two seconds, and a connection wait for its handler behind that; return its id."""
    headers = {"Prefer": "respond-async"}
    body = {"function": "sleep", "params": [3]}
    await service.call("POST", "/v1/workers/main/calls", 202, json=body, headers=headers)
    request = {"url": url, "handler": {"name": handler, "params": params}}
    record = await service.call("POST", "/v1/connections", 202, json=request, headers=headers)
    assert record["status"] == "Connecting"
    await wait_for(lambda: _waits(service))
    return record["id"]


async def _waits(service: RunningService) -> bool:
    # The call may still be in the mailbox itself: only while it runs is what waits the handler.
    worker = await service.get("/v1/workers/main")
    return worker["running"] is not None and worker["mailbox"] == 1


async def test_a_connection_whose_handler_waits_to_be_made_can_be_terminated(
    service: RunningService, echo: EchoServer
) -> None:
    connection = await _busy_then_connecting(service, echo.url, "Recorder")
    final = await asyncio.wait_for(service.call("DELETE", f"/v1/connections/{connection}"), 1)
    assert final["status"] == "Closed"
    assert final["terminate"]["code"] == 1006
    assert final["handler"] == "Recorder"
    assert await seen_by(service) == [], "the call comes after what made the handler"
    events = await service.events(connection, until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert echo.peers == [], "it was not dialled"


async def test_a_create_whose_handler_waits_to_be_made_answers_409_when_it_is_terminated(
    service: RunningService, echo: EchoServer
) -> None:
    await _busy_then_connecting(service, echo.url, "Recorder")
    creating = asyncio.create_task(service.open(echo.url, 409, handler={"name": "Recorder"}))
    second = await wait_for(lambda: _second(service))
    await service.call("DELETE", f"/v1/connections/{second}")
    assert (await asyncio.wait_for(creating, 1))["type"] == "urn:mooring:problem:terminated"


async def _second(service: RunningService) -> int | None:
    found = (await service.get("/v1/connections"))["connections"]
    return found[1]["id"] if len(found) == 2 else None


async def test_a_connection_whose_handler_waits_to_be_made_outlives_the_service(
    service: RunningService, echo: EchoServer
) -> None:
    connection = await _busy_then_connecting(service, echo.url, "Recorder")
    await service.restart_after_kill()
    await service.events(connection, until="onOpen")
    assert [event["kind"] for event in await service.events(connection)] == ["onOpen"]
    assert (await service.record(connection))["status"] == "Connected"


@pytest.mark.parametrize("away_s", [0.0, 4.0])  # it is made after the service is back, or while it is away
async def test_a_handler_that_cannot_be_made_ends_its_connection_also_when_the_service_was_killed_meanwhile(
    service: RunningService, echo: EchoServer, away_s: float
) -> None:
    connection = await _busy_then_connecting(service, echo.url, "Recorder", nosuch=1)
    await service.restart_after_kill(away_s)
    events = await service.events(connection, until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert "nosuch" in events[0]["event"]["errors"][0]["message"]
