"""Connections whose handler waits to be made, because its worker is busy."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import SERVICE, call_later, held, options, seen_by  # noqa: F401 - SERVICE is for `shared`
from tests.servers import EchoServer


async def _connecting(service: RunningService, worker: str, url: str, **params: Any) -> int:
    """Have a connection wait for its handler behind what holds the worker; return its id."""
    request = {"url": url, "worker": worker, "handler": {"name": "Recorder", "params": params}}
    headers = {"Prefer": "respond-async"}
    record = await service.call("POST", "/v1/connections", 202, json=request, headers=headers)
    assert record["status"] == "Connecting"
    await wait_for(lambda: _waits(service, worker))
    return record["id"]


async def _waits(service: RunningService, worker: str) -> bool:
    return (await service.get(f"/v1/workers/{worker}"))["mailbox"] == 1


async def test_a_connection_whose_handler_waits_to_be_made_can_be_terminated(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    async with held(shared, worker):
        connection = await _connecting(shared, worker, echo.url)
        final = await asyncio.wait_for(shared.call("DELETE", f"/v1/connections/{connection}"), 60)
    assert final["status"] == "Closed"
    assert final["terminate"]["code"] == 1006
    assert final["handler"] == "Recorder"
    assert await seen_by(shared, worker) == [], "the call comes after what made the handler"
    events = await shared.events(connection, until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert echo.peers == [], "it was not dialled"


async def test_a_create_whose_handler_waits_to_be_made_answers_409_when_it_is_terminated(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    async with held(shared, worker):
        creating = asyncio.create_task(shared.open(echo.url, 409, worker=worker, handler={"name": "Recorder"}))
        (waiting,) = await wait_for(lambda: _connections(shared, worker))
        await shared.call("DELETE", f"/v1/connections/{waiting['id']}")
        assert (await asyncio.wait_for(creating, 60))["type"] == "urn:mooring:problem:terminated"


@pytest.mark.alone
async def test_a_create_whose_handler_waits_to_be_made_answers_504_within_a_second_of_connect_timeout(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    async with held(shared, worker):
        begun = time.monotonic()
        problem = await shared.open(echo.url, 504, worker=worker, handler={"name": "Recorder"}, connectTimeout=0.5)
        assert 0.5 <= time.monotonic() - begun < 1.5
    assert problem["errors"][0]["errCode"] == 104
    number = problem["connection"]
    events = await shared.events(number, until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert events[0]["event"]["errors"] == problem["errors"]
    assert await seen_by(shared, worker) == [], "the call comes after what would have made the handler"
    assert (await shared.record(number))["status"] == "Closed"
    assert echo.handshakes == 0


async def _connections(service: RunningService, worker: str) -> list[dict[str, Any]]:
    return (await service.get(f"/v1/connections?worker={worker}"))["connections"]


async def test_a_connection_whose_handler_waits_to_be_made_outlives_the_service(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(*options())
    async with held(service):
        connection = await _connecting(service, "main", echo.url)
        await service.restart_after_kill()
    await service.events(connection, until="onOpen")
    assert [event["kind"] for event in await service.events(connection)] == ["onOpen"]
    assert (await service.record(connection))["status"] == "Connected"


@pytest.mark.parametrize("away", [False, True])  # it is made after the service is back, or while it is away
async def test_a_handler_that_cannot_be_made_ends_its_connection_also_when_the_service_was_killed_meanwhile(
    start_service: StartService, echo: EchoServer, tmp_path: Path, away: bool
) -> None:
    service = await start_service(*options())
    async with held(service) as hold:
        connection = await _connecting(service, "main", echo.url, nosuch=1)
        await call_later(service, "append_to", str(tmp_path / "made"), "or not")
        await service.kill()
        if away:
            await wait_for(lambda: "the service is gone" in service.worker_log())
            hold.release()
            await wait_for((tmp_path / "made").exists)
        await service.start()
    events = await service.events(connection, until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]
    assert "nosuch" in events[0]["event"]["errors"][0]["message"]
