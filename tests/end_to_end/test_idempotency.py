"""Requests that are repeated, and clients that go away in the middle: what was begun is done once, and done whole."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from tests.conftest import RunningService, wait_for
from tests.servers import DeafServer, EchoServer, RawConnection, RawServer

KEY = {"Idempotency-Key": "k-1"}


async def _post(service: RunningService, path: str, **kwargs: Any) -> tuple[int, bytes, bool]:
    async with service.client.post(path, **kwargs) as response:
        return response.status, await response.read(), "Idempotency-Replayed" in response.headers


async def test_each_post_that_changes_something_answers_a_repeat_with_the_same(
    service: RunningService, echo: EchoServer
) -> None:
    connection = (await service.open(echo.url, worker="w"))["id"]
    lines = {"data": b"1\n2\n", "headers": {"Content-Type": "application/x-ndjson"}}
    requests: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/connections", {"json": {"url": echo.url}}, 201),
        ("/v1/connections", {"json": {"url": echo.url}, "headers": {"Prefer": "respond-async"}}, 202),
        (f"/v1/connections/{connection}/messages", {"json": {"pay": 5}}, 200),
        (f"/v1/connections/{connection}/messages", lines, 200),
        ("/v1/workers/w/drain", {}, 202),
    ]
    for number, (path, options, status) in enumerate(requests):
        key = {"Idempotency-Key": f"key-{number}"}
        options = {**options, "headers": {**options.get("headers", {}), **key}}
        first = await _post(service, path, **options)
        again = await _post(service, path, **options)
        assert first[0] == status and not first[2], (path, first)
        assert again == (status, first[1], True), path
        other = await service.call("POST", "/v1/connections", 422, json={"url": "ws://127.0.0.1:1/"}, headers=key)
        assert other["type"] == "urn:mooring:problem:key-reused"
    assert len((await service.get("/v1/connections"))["connections"]) == 3
    await wait_for(lambda: len(echo.peers[0].received) >= 3)
    assert echo.peers[0].received == ['{"pay": 5}', "1", "2"]
    await service.call("POST", "/v1/workers/w/drain", 400, headers={"Idempotency-Key": "a b"})


async def test_a_repeat_while_the_first_still_runs_answers_409(service: RunningService, echo: EchoServer) -> None:
    held = f"{echo.url}held"
    first = asyncio.create_task(service.open(held, request_headers=KEY, connectTimeout=60))
    await wait_for(lambda: _count(service, 1))
    problem = await service.open(held, 409, request_headers=KEY, connectTimeout=60)
    assert problem["type"] == "urn:mooring:problem:still-running"
    other = asyncio.create_task(service.open(held, request_headers=KEY | {"Idempotency-Key": "k-2"}))
    await wait_for(lambda: _count(service, 2))
    echo.released.set()
    assert (await other)["id"] == 2
    assert await first == await service.open(held, request_headers=KEY, connectTimeout=60)


async def test_a_dial_that_timed_out_while_the_service_was_away_is_answered_as_one(service: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await asyncio.sleep(3600)

    async with RawServer(script) as server:
        request = {"url": server.url, "connectTimeout": 5}
        creating = asyncio.create_task(_post(service, "/v1/connections", json=request, headers=KEY))
        await wait_for(lambda: _count(service, 1))
        await service.restart_after_kill()
        await asyncio.wait({creating})
        problem = await service.call("POST", "/v1/connections", 504, json=request, headers=KEY)
        assert problem["type"] == "urn:mooring:problem:connect-timeout"
        assert problem["connection"] == 1 and problem["errors"][0]["errCode"] == 104
        assert creating.exception() is not None


async def test_a_create_whose_client_goes_away_is_finished_and_its_repeat_finds_it(
    service: RunningService, echo: EchoServer
) -> None:
    url = f"{echo.url}held"
    creating = asyncio.create_task(service.open(url, request_headers=KEY))
    await wait_for(lambda: _count(service, 1))
    creating.cancel()
    await asyncio.wait({creating})
    echo.released.set()
    await service.events(1, until="onOpen")
    assert (await wait_for(lambda: _create_again(service, url)))["id"] == 1
    assert len(echo.peers) == 1


async def _create_again(service: RunningService, url: str) -> dict[str, Any] | None:
    async with service.client.post("/v1/connections", json={"url": url}, headers=KEY) as response:
        return await response.json() if response.status == 201 else None


async def _count(service: RunningService, count: int) -> bool:
    return len((await service.get("/v1/connections"))["connections"]) == count


async def test_a_delete_whose_client_goes_away_still_ends_the_connection(shared: RunningService) -> None:
    closing = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await connection.read_close()
        closing.set()
        await asyncio.sleep(3600)  # and does not answer it

    async with RawServer(script) as server:
        record = await shared.open(server.url, closeTimeout=0.5)
        deleting = asyncio.create_task(shared.call("DELETE", f"/v1/connections/{record['id']}"))
        await asyncio.wait_for(closing.wait(), 60)
        deleting.cancel()
        await asyncio.wait({deleting})
        events = await shared.events(record["id"], until="onTerminate")
        assert events[-1]["event"]["code"] == 1006


@pytest.mark.parametrize("kind", ["text/plain", "application/x-ndjson"])
async def test_a_send_whose_client_goes_away_before_its_end_sends_nothing_half(
    shared: RunningService, echo: EchoServer, kind: str
) -> None:
    record = await shared.open(echo.url)
    begun = asyncio.Event()

    async def body() -> Any:
        yield b'"whole"\n"ha'
        begun.set()
        await asyncio.sleep(30)

    sending = asyncio.create_task(shared.send(record["id"], body(), kind))
    await asyncio.wait_for(begun.wait(), 60)
    if kind == "application/x-ndjson":
        await wait_for(lambda: echo.peers[0].received == ['"whole"'])
    sending.cancel()
    await asyncio.wait({sending})
    await shared.send(record["id"], "after")
    await wait_for(lambda: "after" in echo.peers[0].received)
    assert echo.peers[0].received == (['"whole"', "after"] if kind == "application/x-ndjson" else ["after"])


async def test_an_idempotency_key_stands_for_one_connection_across_a_crash(
    service: RunningService, echo: EchoServer
) -> None:
    key = {"Idempotency-Key": "order-66"}
    held = {"url": echo.url + "held", "connectTimeout": 60}
    first = asyncio.create_task(_try_open(service, held, key))
    await wait_for(lambda: _dialled(echo))
    await service.kill()
    assert await first is None, "the answer died with the service"
    await service.start()
    asking = asyncio.create_task(service.open(**held, request_headers=key))
    await asyncio.wait({asking}, timeout=0.2)
    echo.released.set()
    again = await asking
    repeated = await service.open(**held, request_headers=key)
    assert again["id"] == repeated["id"]
    assert len((await service.get("/v1/connections"))["connections"]) == 1
    assert len(echo.peers) == 1, "dialled once"
    other = await service.call("POST", "/v1/connections", 422, json={"url": echo.url}, headers=key)
    assert other["type"] == "urn:mooring:problem:key-reused"


async def _try_open(service: RunningService, body: dict[str, Any], headers: dict[str, str]) -> dict[str, object] | None:
    try:
        return await service.open(**body, request_headers=headers)
    except (aiohttp.ClientError, RuntimeError):
        return None


async def _dialled(echo: EchoServer) -> bool:
    return echo.handshakes > 0


async def test_an_idempotency_key_stands_for_one_connection_although_the_service_died_before_it_was_dialled(
    service: RunningService, echo: EchoServer
) -> None:
    key = {"Idempotency-Key": "order-67"}
    first = asyncio.create_task(_try_open(service, {"url": echo.url}, key))
    # Its worker is only being started then: most often nothing was dialled yet.
    await wait_for(lambda: _some_connection(service))
    await service.kill()
    await first
    await service.start()
    again, repeated = [await _settled(service, {"url": echo.url}, key) for _ in range(2)]
    assert again == repeated
    assert len((await service.get("/v1/connections"))["connections"]) == 1
    if "id" in again:
        assert echo.handshakes == 1
    else:
        assert again["detail"] == "the service stopped before it was dialled"
        assert echo.handshakes == 0


async def _settled(service: RunningService, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """Ask until the answer is no more that it is to be asked later."""

    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] = await service.call("POST", "/v1/connections", None, json=body, headers=headers)
        return None if found["status"] in (409, 503) else found

    settled: dict[str, Any] = await wait_for(look)
    return settled


async def _some_connection(service: RunningService) -> bool:
    return bool((await service.get("/v1/connections"))["connections"])


async def test_a_send_with_a_key_reaches_the_peer_once_although_the_service_died(
    service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(echo.url)
    first = await service.send(record["id"], "pay 5", **{"Idempotency-Key": "p1"})
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    assert await service.send(record["id"], "pay 5", **{"Idempotency-Key": "p1"}) == first
    await service.send(record["id"], "pay 6", **{"Idempotency-Key": "p2"})
    await wait_for(lambda: len(echo.peers[0].received) == 2)
    assert echo.peers[0].received == ["pay 5", "pay 6"]


@pytest.mark.parametrize("read_before_the_repeat", [False, True])
async def test_a_send_with_a_key_that_waited_for_its_peer_reaches_it_once_although_the_service_died(
    service: RunningService, read_before_the_repeat: bool
) -> None:
    async with DeafServer() as server:
        record = await service.open(server.url, sendTimeout=60, pingInterval=0)
        # The peer does not read: sooner or later a message waits in the worker.
        while True:
            filler = asyncio.create_task(_try_send(service, record["id"], "x" * 1_000_000))
            if not (await asyncio.wait({filler}, timeout=3))[0]:
                break
        first = asyncio.create_task(_try_send(service, record["id"], "pay 5", **{"Idempotency-Key": "p1"}))
        await wait_for(lambda: _has_waiting(service, 1_000_005))
        await service.kill()
        await asyncio.gather(filler, first)
        if read_before_the_repeat:
            server.reads.set()
            await wait_for(lambda: "pay 5" in server.received)
        await service.start()
        await wait_for(service.is_ready)
        again = asyncio.create_task(service.send(record["id"], "pay 5", **{"Idempotency-Key": "p1"}))
        await asyncio.wait({again}, timeout=0.2)
        server.reads.set()
        assert await again == {"sent": 1, "bytes": 5}
        await service.send(record["id"], "the end")
        await wait_for(lambda: "the end" in server.received)
        assert server.received.count("pay 5") == 1
        await service.call("DELETE", f"/v1/connections/{record['id']}")


async def _try_send(service: RunningService, connection: int, text: str, **headers: str) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await service.send(connection, text, **headers)


async def _has_waiting(service: RunningService, count: int) -> bool:
    async with service.client.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith("mooring_queue_bytes{") and 'queue="outbound"' in line:
                return float(line.rsplit(" ", 1)[1]) >= count
    return False


async def test_an_answer_that_says_later_is_not_kept_for_the_key(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(f"{echo.url}held", 202, request_headers={"Prefer": "respond-async"})
    problem = await service.send(record["id"], "x", status=409, **KEY)
    assert problem["type"] == "urn:mooring:problem:wrong-state"
    echo.released.set()
    await service.events(record["id"], until="onOpen")
    assert (await service.send(record["id"], "x", **KEY))["sent"] == 1
    await wait_for(lambda: echo.peers[0].received == ["x"])
