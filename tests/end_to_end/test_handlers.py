"""Handlers: the order of callbacks, one at a time, and what they ask for."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import call, has_seen, held, is_running, open_with, options, seen_by
from tests.servers import EchoServer, FeedServer, RawConnection, RawServer, frame

SERVICE = (
    options(),
    {"MOORING_SUPERVISOR_STOP_TIMEOUT": "60"},
)  # a worker that is killed says itself what it has closed


@pytest.mark.parametrize("handler", ["Recorder", "AsyncRecorder"])
async def test_callbacks_come_in_4ds_order_and_see_what_4d_shows(
    shared: RunningService, worker: str, echo: EchoServer, handler: str
) -> None:
    record = await open_with(shared, f"{echo.url}push?count=2", handler, {"note": "x"}, worker=worker)
    assert record["handler"] == handler
    await shared.events(record["id"], count=3)
    await shared.call("DELETE", f"/v1/connections/{record['id']}?code=4000&reason=done")
    events = await shared.events(record["id"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onMessage", "onTerminate"]
    number = record["id"]
    assert await seen_by(shared, worker) == [
        [number, "open", "Connected"],
        [number, "message", "1"],
        [number, "message", "2"],
        [number, "terminate", 1000, "", True, "Closed"],
    ]


ENDS = ["peer closes", "reset", "protocol error", "bad data", "too big", "silence", "refused", "no handshake", "terminate", "terminate while Connecting", "worker killed", "process killed"]  # fmt: skip


FAILED_DIALS = ("refused", "no handshake", "terminate while Connecting")


FAILED = (*FAILED_DIALS, "reset", "protocol error", "bad data", "too big", "silence")


async def test_under_auto_a_handler_gets_text_as_str_and_binary_as_bytes(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    record = await open_with(shared, echo.url, "Sorter", worker=worker)
    assert record["dataType"] == "auto", "an attribute of the handler, too"
    await shared.send(record["id"], "Grüße")
    await shared.send(record["id"], b"\xff\x00", "application/octet-stream")
    events = await shared.events(record["id"], count=3)
    assert [event["event"] for event in events[1:]] == [
        {"type": "message", "data": "Grüße"},
        {"type": "message", "data": "/wA=", "encoding": "base64"},
    ]
    assert await seen_by(shared, worker) == [["auto", "str", "Grüße"], ["auto", "bytes", "/wA="]]


@pytest.mark.parametrize("how", ENDS)
async def test_however_a_connection_ends_on_terminate_is_the_last_and_comes_once(
    shared: RunningService, how: str
) -> None:
    async def script(connection: RawConnection) -> None:
        if how in FAILED_DIALS:
            await asyncio.sleep(3600)
        await connection.accept(after=frame(1, b"hi"))
        if how == "reset":
            await asyncio.sleep(0.05)
            connection.reset()
        elif how == "silence":
            await asyncio.sleep(3600)
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
            problem = await open_with(shared, server.url, "Recorder", status=504, connectTimeout=2)
            number = problem["connection"]
        elif how == "terminate while Connecting":
            prefer = {"Prefer": "respond-async"}
            number = (await open_with(shared, server.url, "Recorder", status=202, request_headers=prefer))["id"]
            await wait_for(lambda: server.connections)
        else:
            number = (await open_with(shared, server.url, "Recorder", **options))["id"]
            await shared.events(number, count=2)
            await seen_by(shared)  # behind its callbacks: none of them waits any more
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
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    for _ in range(2):
        await open_with(shared, f"{echo.url}push?count=20", "Overlap", worker=worker)
    await wait_for(lambda: _messages(shared, worker, 40))
    assert await call(shared, "get_overlap", worker=worker) == {"now": 0, "most": 1}


async def _messages(service: RunningService, worker: str, count: int) -> bool:
    page = await service.get(f"/v1/workers/{worker}/events?after=start&kind=onMessage&limit=1000")
    return len(page["events"]) >= count


async def test_two_workers_do(shared: RunningService, worker: str, echo: EchoServer, tmp_path: Path) -> None:
    for name in (worker, "another"):
        record = await open_with(shared, echo.url, "Marker", {"folder": str(tmp_path)}, worker=name)
        await shared.send(record["id"], "x")
    for name in (worker, "another"):
        await wait_for(lambda name=name: has_seen(shared, name, ["met"]))


async def test_a_callback_that_sleeps_costs_no_pong_and_is_shown(
    shared: RunningService, worker: str, echo: EchoServer, tmp_path: Path
) -> None:
    sleeps = tmp_path / "sleeps"
    sleeps.touch()
    record = await open_with(shared, f"{echo.url}ping?within=60", "Sleeper", {"path": str(sleeps)}, worker=worker)

    async def running() -> dict[str, Any] | None:
        found = (await shared.get(f"/v1/workers/{worker}"))["running"]
        return found if found and found["seconds"] > 1 else None

    assert (await wait_for(running))["name"] == "Sleeper.on_open"
    await wait_for(lambda: echo.peers[0].ponged)
    assert (await shared.record(record["id"]))["status"] == "Connected"
    sleeps.unlink()
    events = await shared.events(record["id"], count=2)
    assert events[1]["event"]["data"] == "ponged", "what came meanwhile is not lost"


async def test_a_callback_in_a_busy_loop_costs_no_pong(shared: RunningService, worker: str, echo: EchoServer) -> None:
    record = await open_with(shared, f"{echo.url}ping?within=60", "Busy", worker=worker)
    await wait_for(lambda: is_running(shared, worker, "Busy.on_open"))
    await wait_for(lambda: echo.peers[0].ponged)
    assert await is_running(shared, worker, "Busy.on_open")
    await shared.call("DELETE", f"/v1/connections/{record['id']}")


async def test_a_stalled_handler_pauses_its_socket_and_loses_nothing(start_service: StartService) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_INBOUND_MESSAGES": "100"})
    async with FeedServer(rate=5_000, size=500) as feed:
        record = await open_with(service, feed.url, "Counter")
        async with held(service):
            await wait_for(lambda: _paused(service))
            assert (await service.get("/v1/workers/main"))["rss"] < 200 * 2**20
        await feed.stop_sending()
        await wait_for(lambda: _counted(service, record["id"], feed.sent["/"]))
        assert feed.ends == []


async def test_a_stalled_handler_does_not_keep_its_connection_from_closing_in_order(
    start_service: StartService,
) -> None:
    service = await start_service(*options(), env={"MOORING_WORKER_INBOUND_MESSAGES": "100"})
    async with FeedServer(rate=5_000, size=500) as feed:
        record = await open_with(service, feed.url, "Counter", closeTimeout=60)
        async with held(service) as hold:
            await wait_for(lambda: _paused(service))
            closed = await service.call("DELETE", f"/v1/connections/{record['id']}")
            assert closed["terminate"]["wasClean"], closed["terminate"]
            assert not hold.call.done(), "nobody waited for the handler"
        (end,) = (await service.events(record["id"], "onTerminate"))[-1:]
        assert end["event"]["wasClean"]


async def _paused(service: RunningService) -> bool:
    return (await service.get("/v1/workers/main"))["paused"] == 1


async def _counted(service: RunningService, connection: int, count: int, worker: str = "main") -> bool:
    return (await call(service, "get_counts", worker=worker)).get(str(connection)) == count


async def test_100000_messages_through_a_handler_none_missing_in_order(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    record = await open_with(shared, f"{echo.url}push?count=100000", "Counter", worker=worker)
    await wait_for(lambda: _counted(shared, record["id"], 100_000, worker), 100)
    errors = await shared.get(f"/v1/workers/{worker}/events?after=start&kind=callbackError")
    assert errors["events"] == []

    async def recorded() -> bool:
        return (await shared.record(record["id"]))["stats"]["messagesIn"] == 100_000

    await wait_for(recorded)


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


async def test_new_works_inside_a_callback_and_its_callbacks_follow(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    await open_with(shared, echo.url, "Opens", {"url": echo.url}, worker=worker)
    seen = await wait_for(lambda: _seen_message(shared, worker, "from the inner one"))
    inner = next(entry for entry in seen if entry[0] == "inner")
    assert inner == ["inner", inner[1], echo.url, "text", "Recorder"]
    record = await shared.record(inner[1])
    assert (record["status"], record["worker"]) == ("Connected", worker)
    assert [entry[1] for entry in seen if entry[0] == inner[1]] == ["open", "message"]


async def _seen_message(service: RunningService, worker: str, data: str) -> list[Any] | None:
    seen = await seen_by(service, worker)
    return seen if any(entry[1:] == ["message", data] for entry in seen) else None


async def test_new_raises_connect_error_and_the_record_shows_it(shared: RunningService, echo: EchoServer) -> None:
    assert await call(shared, "try_new", "ws://127.0.0.1:1/") == ["ConnectError", 102]
    status, number = await call(shared, "try_new", echo.url)
    assert status == "Connected"
    assert (await shared.record(number))["handler"] == "Recorder"
