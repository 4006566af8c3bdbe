"""Connections whose handler waits to be made, because its worker is busy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import SERVICE, _has_seen, _is_running, call, open_with, options, seen_by  # noqa: F401 - SERVICE is read by `module_service`
from tests.servers import EchoServer


@pytest.fixture
async def service(start_service: StartService) -> RunningService:
    return await start_service(*options())


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
