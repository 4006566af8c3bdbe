"""One path through everything: what `make test-quick` has of real processes, beside the tests of each room."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.command_line import mooring
from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import call, open_with, options, seen_by
from tests.servers import EchoServer


@pytest.mark.quick
async def test_one_path_through_everything(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(*options())

    plain = json.loads((await mooring(service, "open", echo.url, "--worker", "plain", "--json")).out)["id"]
    await service.send(plain, "from the API")
    assert (await service.events(plain, count=2))[1]["event"]["data"] == "from the API"
    handled = (await open_with(service, echo.url, "Recorder", worker="handling"))["id"]
    await service.send(handled, "to a callback")
    await service.events(handled, count=2)
    assert await seen_by(service, "handling") == [[handled, "open", "Connected"], [handled, "message", "to a callback"]]
    assert await call(service, "add", 2, 3, worker="handling") == 5

    pids = await _pids(service)
    await service.kill()
    await service.start()
    await wait_for(service.is_ready)
    assert await _pids(service) == pids, "the workers have outlived the service"
    await service.send(plain, "after the restart")
    last = (await service.events(plain, count=3))[-1]
    assert (last["seq"], last["event"]["data"]) == (3, "after the restart")

    os.kill(pids["plain"], signal.SIGKILL)
    end = (await service.events(plain, until="onTerminate"))[-1]["event"]
    assert (end["code"], end["wasClean"]) == (1006, False)
    assert "1000 cleanly" in (await mooring(service, "close", str(handled))).out
    kinds = [event["kind"] async for event in service.stream(f"/v1/connections/{handled}/events")]
    assert kinds == ["onOpen", "onMessage", "onTerminate"]
    await wait_for(lambda: _measured(service, 'mooring_opens_total{worker="handling"} 1.0'))
    assert await service.stop() == 0
    assert service.worker_pids() == []


async def _pids(service: RunningService) -> dict[str, int]:
    return {worker["name"]: worker["pid"] for worker in (await service.get("/v1/workers"))["workers"]}


async def _measured(service: RunningService, line: str) -> bool:
    async with service.client.get("/metrics") as response:
        return line in await response.text()
