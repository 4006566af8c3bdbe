"""The rows of the REST table and the law of callbacks, over real processes and sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import aiohttp
import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer, FeedServer, Ledger, RawConnection, RawServer, frame


async def test_create_answers_201_with_location_and_a_connected_record(
    shared: RunningService, echo: EchoServer
) -> None:
    async with shared.client.post("/v1/connections", json={"url": echo.url + "a?b=%41c"}) as response:
        record = await response.json()
        assert response.status == 201
        assert response.headers["Location"] == f"/v1/connections/{record['id']}"
    assert record["status"] == "Connected"
    assert record["url"] == echo.url + "a?b=%41c"
    assert record["dataType"] == "text"
    assert record["worker"] == "main"
    assert record["terminate"] is None
    assert echo.peers[0].raw_path == "/a?b=%41c"


async def test_the_first_id_is_1_and_ids_grow(service: RunningService, echo: EchoServer) -> None:
    assert [(await service.open(echo.url))["id"] for _ in range(3)] == [1, 2, 3]


async def test_a_binary_frame_under_text_is_decoded_and_under_object_is_parsed(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url + "binary?hex=" + "grün".encode().hex())
    assert (await shared.events(record["id"], count=2))[1]["event"]["data"] == "grün"
    record = await shared.open(echo.url + "binary?hex=" + b'{"a":1}'.hex(), dataType="object")
    assert (await shared.events(record["id"], count=2))[1]["event"]["data"] == {"a": 1}


@pytest.mark.parametrize(("data_type", "path"), [("text", "binary?hex=ff"), ("object", "text?text=not-json")])
async def test_what_cannot_be_converted_is_an_error_and_closes_with_1007(
    shared: RunningService, echo: EchoServer, data_type: str, path: str
) -> None:
    record = await shared.open(echo.url + path, dataType=data_type)
    events = await shared.events(record["id"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onError", "onTerminate"]
    assert events[1]["event"]["errors"][0]["errCode"] == 202
    assert events[2]["event"]["wasClean"] is True
    await asyncio.wait_for(echo.peers[0].gone.wait(), 60)
    assert echo.peers[0].close_code == 1007
    assert (await shared.record(record["id"]))["stats"]["messagesIn"] == 1


async def test_headers_lists_and_cookie_reach_the_server_and_are_hidden_in_the_record(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url, headers={"X-Token": "s3cret", "X-Many": ["a", "b"], "Cookie": "a=1; b=2"})
    assert record["headers"] == {"X-Token": "***", "X-Many": "***", "Cookie": "***"}
    headers = echo.peers[0].headers
    assert headers["X-Token"] == "s3cret"
    assert headers.getall("X-Many") == ["a", "b"]
    assert headers["Cookie"] == "a=1; b=2"
    await shared.call("DELETE", f"/v1/connections/{record['id']}")
    page = await shared.get(f"/v1/connections/{record['id']}/events")
    assert "s3cret" not in json.dumps(page) + shared.log() + shared.worker_log()


async def test_subprotocol_is_negotiated(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url + "?protocols=v2,v1", protocols=["v1", "v2"])
    assert record["protocol"] in ("v1", "v2")


async def test_a_refused_port_answers_502_at_once_and_leaves_a_closed_record(
    shared: RunningService, echo: EchoServer
) -> None:
    await shared.open(echo.url)
    begin = time.monotonic()
    problem = await shared.open("ws://127.0.0.1:1/?secret=hunter2", 502, connectTimeout=60)
    assert time.monotonic() - begin < 30, "nothing is waited for"
    assert problem["type"] == "urn:mooring:problem:connect-failed"
    assert "127.0.0.1:1 refused" in problem["detail"]
    assert "hunter2" not in json.dumps(problem)
    assert problem["errors"][0] == {
        "errCode": 102,
        "message": "127.0.0.1:1 refused the connection",
        "componentSignature": "MOOR",
    }
    events = await shared.events(problem["connection"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert events[0]["event"]["errors"] == problem["errors"]
    assert events[1]["event"]["code"] == 1006
    assert events[1]["event"]["wasClean"] is False
    record = await shared.record(problem["connection"])
    assert record["status"] == "Closed"
    assert record["terminate"]["code"] == 1006
    assert record["errors"] == problem["errors"]


async def test_a_server_that_does_not_answer_the_handshake_answers_504(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await asyncio.sleep(30)

    async with RawServer(script) as server:
        problem = await shared.open(server.url, 504, connectTimeout=0.3)
        assert problem["type"] == "urn:mooring:problem:connect-timeout"
        assert problem["errors"][0]["errCode"] == 104


async def test_respond_async_answers_202_at_once(shared: RunningService, echo: EchoServer) -> None:
    async with shared.client.post(
        "/v1/connections", json={"url": echo.url + "held"}, headers={"Prefer": "respond-async"}
    ) as response:
        record = await response.json()
        assert response.status == 202
        assert response.headers["Preference-Applied"] == "respond-async"
        assert response.headers["Location"].endswith(f"/{record['id']}")
    assert record["status"] == "Connecting"
    problem = await shared.send(record["id"], "too early", status=409)
    assert problem["connectionStatus"] == "Connecting"
    echo.released.set()
    await shared.events(record["id"], until="onOpen")
    assert (await shared.record(record["id"]))["status"] == "Connected"


async def test_terminating_a_dial_answers_the_create_with_409(shared: RunningService, echo: EchoServer) -> None:
    creating = asyncio.create_task(shared.open(echo.url + "held", 409, worker="dialling"))
    listed = await wait_for(lambda: _connections(shared, "dialling"))
    await shared.call("DELETE", f"/v1/connections/{listed[0]['id']}")
    problem = await creating
    assert problem["type"] == "urn:mooring:problem:terminated"
    events = await shared.events(listed[0]["id"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]


async def _connections(service: RunningService, worker: str) -> list[dict]:
    return (await service.get(f"/v1/connections?worker={worker}"))["connections"]


async def test_list_filters_and_pages(service: RunningService, echo: EchoServer) -> None:
    for worker in ("a", "b", "a"):
        await service.open(echo.url, worker=worker)
    await service.call("DELETE", "/v1/connections/1")
    page = await service.get("/v1/connections?limit=2")
    assert [record["id"] for record in page["connections"]] == [1, 2]
    page = await service.get(f"/v1/connections?limit=2&after={page['next']}")
    assert [record["id"] for record in page["connections"]] == [3]
    assert page["next"] is None
    page = await service.get("/v1/connections?worker=a&status=Connected")
    assert [record["id"] for record in page["connections"]] == [3]


async def test_delete_closes_with_code_and_reason_and_is_idempotent(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    path = f"/v1/connections/{record['id']}?code=3001&reason=enough%20of%20it"
    final = await shared.call("DELETE", path)
    assert final["status"] == "Closed"
    # The code is the peer's (contract, section 2): aiohttp's server answers every close frame with 1000.
    assert final["terminate"] == {"code": 1000, "reason": "", "wasClean": True}
    await asyncio.wait_for(echo.peers[0].gone.wait(), 60)
    assert echo.peers[0].close_code == 3001
    assert await shared.call("DELETE", path) == final
    await shared.send(record["id"], "late", status=410)
    events = await shared.events(record["id"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onTerminate"]


@pytest.mark.parametrize(
    ("code", "status"), [("1000", 200), ("3000", 200), ("4999", 200), ("1001", 422), ("5000", 422), ("x", 422)]
)
async def test_terminate_takes_1000_and_3000_to_4999(
    shared: RunningService, echo: EchoServer, code: str, status: int
) -> None:
    record = await shared.open(echo.url)
    await shared.call("DELETE", f"/v1/connections/{record['id']}?code={code}", status)
    assert (await shared.record(record["id"]))["status"] == ("Closed" if status == 200 else "Connected")


@pytest.mark.alone
async def test_delete_answers_within_close_timeout_and_a_second_when_the_peer_keeps_talking(
    shared: RunningService,
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        while True:
            connection.writer.write(frame(1, b"still here"))
            await connection.writer.drain()
            await asyncio.sleep(0.05)

    async with RawServer(script) as server:
        record = await shared.open(server.url, closeTimeout=0.5)
        begin = time.monotonic()
        final = await shared.call("DELETE", f"/v1/connections/{record['id']}")
        assert time.monotonic() - begin < 1.5
        assert final["terminate"]["code"] == 1006
        assert final["terminate"]["wasClean"] is False


async def test_while_it_closes_a_send_is_409_and_a_second_delete_waits_for_the_same_end(
    shared: RunningService,
) -> None:
    closing, told = asyncio.Event(), asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await connection.read_close()
        closing.set()
        await told.wait()  # and ends without a close frame

    async with RawServer(script) as server:
        record = await shared.open(server.url, closeTimeout=60)
        path = f"/v1/connections/{record['id']}"
        first = asyncio.create_task(shared.call("DELETE", path))
        await asyncio.wait_for(closing.wait(), 60)
        for body, kind in ((b"x", "text/plain"), (b"1\n", "application/x-ndjson")):
            problem = await shared.send(record["id"], body, kind, 409)
            assert problem["type"] == "urn:mooring:problem:wrong-state"
            assert problem["connectionStatus"] == "Closing"
        again = asyncio.create_task(shared.call("DELETE", path))
        await asyncio.wait({again}, timeout=0.2)
        assert not first.done() and not again.done()
        told.set()
        second = await again
        assert second == await first
        assert second["status"] == "Closed" and second["terminate"]["wasClean"] is False
        events = await shared.events(record["id"], until="onTerminate")
        assert [event["kind"] for event in events] == ["onOpen", "onTerminate"]


@pytest.mark.parametrize(
    ("payload", "code", "clean"), [(b"\x03\xe9bye", 1001, True), (b"", 1005, True), (b"\x0f\xa0", 4000, True)]
)
async def test_the_peers_close_is_answered_and_reported(
    shared: RunningService, payload: bytes, code: int, clean: bool
) -> None:
    answered = asyncio.get_running_loop().create_future()

    async def script(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"last") + frame(8, payload))
        answered.set_result(await connection.read_close())

    async with RawServer(script) as server:
        record = await shared.open(server.url)
        events = await shared.events(record["id"], until="onTerminate")
        assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onTerminate"]
        assert events[-1]["event"]["code"] == code
        assert events[-1]["event"]["wasClean"] is clean
        assert (await asyncio.wait_for(answered, 60))[0] == (None if code == 1005 else code)


async def test_under_auto_text_and_binary_are_told_apart_in_every_form(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url, dataType="auto")
    assert record["dataType"] == "auto"
    await shared.send(record["id"], "Grüße")
    await shared.send(record["id"], b"\xff\x00", "application/octet-stream")
    await shared.send(record["id"], b'{"n": 1}', "application/json")
    messages = (await shared.events(record["id"], count=4))[1:]
    assert [event["event"] for event in messages] == [
        {"type": "message", "data": "Grüße"},
        {"type": "message", "data": "/wA=", "encoding": "base64"},
        {"type": "message", "data": '{"n": 1}'},
    ]
    await shared.call("DELETE", f"/v1/connections/{record['id']}")
    path = f"/v1/connections/{record['id']}/events?after=start&kind=onMessage"
    assert [event async for event in shared.stream(path)] == messages
    async with shared.client.get(path, headers={"Accept": "application/x-ndjson"}) as response:
        assert [json.loads(line) async for line in response.content] == messages


async def test_a_lost_connection_is_onerror_then_onterminate_1006(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"one"))
        connection.reset()

    async with RawServer(script) as server:
        record = await shared.open(server.url)
        events = await shared.events(record["id"], until="onTerminate")
        assert [event["kind"] for event in events if event["kind"] != "onMessage"] == [
            "onOpen",
            "onError",
            "onTerminate",
        ]
        assert events[-1]["event"]["code"] == 1006


async def test_a_silent_peer_is_pinged_and_given_up(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        while True:
            await connection.read_frame()

    async with RawServer(script) as server:
        record = await shared.open(server.url, pingInterval=0.2, pingTimeout=0.3)
        events = await shared.events(record["id"], until="onTerminate")
        assert events[1]["event"]["errors"][0]["errCode"] == 205
        await wait_for(lambda: server.connections[0].frames)
        assert server.connections[0].frames[0][0] == 9


async def test_an_idle_connection_is_pinged_every_interval_however_long_the_timeout(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        while True:
            opcode, payload = await connection.read_frame()
            connection.writer.write(frame(10, payload) if opcode == 9 else b"")

    async with RawServer(script) as server:
        record = await shared.open(server.url, pingInterval=0.2, pingTimeout=60)
        pings = "five pings, for which it has not waited out five times pingTimeout"
        await wait_for(lambda: sum(opcode == 9 for opcode, _ in server.connections[0].frames) >= 5, what=pings)
        await shared.call("DELETE", f"/v1/connections/{record['id']}")


async def test_an_idle_peer_that_answers_pings_stays_and_has_a_round_trip(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url, pingInterval=0.1, pingTimeout=60)
    await wait_for(lambda: _round_trip(shared, record["id"]))
    record = await shared.record(record["id"])
    assert record["status"] == "Connected"
    assert record["stats"]["lastMessageAt"] is None, "a pong is no message"


async def _round_trip(service: RunningService, connection: int) -> float | None:
    return (await service.record(connection))["stats"]["roundTripMs"]


async def test_unknown_ids_are_404(shared: RunningService) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        for wrong in ("99999", "0", "x", "99999999999999999999"):
            await shared.call(method, f"/v1/connections/{wrong}{path}", 404)
    await shared.send(99999, "x", status=404)
    await shared.get("/v1/workers/nobody", 404)
    await shared.get("/v1/workers/nobody/events", 404)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopping_closes_with_1001_delivers_every_onterminate_and_exits_0(
    start_service: StartService, echo: EchoServer, number: int
) -> None:
    service = await start_service(env={"MOORING_SUPERVISOR_STOP_TIMEOUT": "60"})
    ids = [(await service.open(echo.url, worker=f"w{at % 2}"))["id"] for at in range(20)]
    ended: list[int] = []
    follows = asyncio.Event()

    async def subscribe() -> None:
        async for event in service.stream("/v1/events?after=start&kind=onOpen,onTerminate"):
            follows.set()
            if event["kind"] == "onTerminate":
                ended.append(event["connection"])
                assert event["event"]["wasClean"] is True

    subscriber = asyncio.create_task(subscribe())
    await asyncio.wait_for(follows.wait(), 60)
    begin = time.monotonic()
    service.process.send_signal(number)
    await asyncio.wait_for(subscriber, 60)
    assert await asyncio.to_thread(service.process.wait, 60) == 0
    assert time.monotonic() - begin < 30, "the peers answer: no deadline is waited for"
    assert sorted(ended) == ids
    await wait_for(lambda: all(peer.gone.is_set() for peer in echo.peers))
    assert {peer.close_code for peer in echo.peers} == {1001}
    assert service.worker_pids() == []


async def test_the_feed_is_complete_under_load(service: RunningService) -> None:
    async with FeedServer(rate=2000) as feed:
        ledger = Ledger()
        ids = [(await service.open(f"{feed.url}{at}"))["id"] for at in range(4)]

        async def subscribe() -> None:
            async for event in service.stream("/v1/events?after=start"):
                ledger.take(event)
                if len(ledger.numbers) == 4 and min(ledger.numbers.values()) >= 2000:
                    return

        await asyncio.wait_for(subscribe(), 100)
        assert set(ledger.numbers) == set(ids)


async def test_a_session_of_aiohttp_sees_no_server_version(shared: RunningService) -> None:
    async with aiohttp.ClientSession() as session, session.get(shared.url + "/healthz") as response:
        assert response.headers["Server"] == "mooring"
