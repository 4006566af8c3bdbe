"""Nobody who asks the service for anything waits because somebody else asks for much."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conftest import ROOT, RunningService, StartService, rounds, wait_for
from tests.servers import EchoServer

STALL_MS = 20


@asynccontextmanager
async def nobody_waits(service: RunningService, what: str) -> AsyncIterator[None]:
    poller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.end_to_end.poll_healthz", str(service.port), str(service.process.pid),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert poller.stdout is not None and await poller.stdout.readline() == b"ready\n"
    yield
    out, _ = await poller.communicate(b"")
    found = json.loads(out)
    print(what, found)
    assert found["worst_ms"] < STALL_MS, (what, found)


@pytest.mark.alone
@rounds(500, 5_000, name="connections")
async def test_health_is_told_within_twenty_milliseconds_whatever_is_asked_for(
    start_service: StartService, echo: EchoServer, connections: int
) -> None:
    service = await start_service()
    numbers = iter(range(connections))

    async def some() -> None:
        for _ in numbers:
            await service.open(echo.url, worker="main")

    await asyncio.gather(*(some() for _ in range(16)))
    async with nobody_waits(service, "metrics"):
        for _ in range(5):
            async with service.client.get("/metrics") as response:
                await response.read()
    async with nobody_waits(service, "a list that matches nothing"):
        for _ in range(10):
            assert (await service.get("/v1/connections?status=Closing"))["connections"] == []
    async with nobody_waits(service, "the last page"):
        for _ in range(10):
            await service.get(f"/v1/connections?limit=100&after={connections - 50}")
    async with nobody_waits(service, "many terminates"):
        page = await service.get(f"/v1/connections?limit={min(1_000, connections // 2)}&status=Connected")
        for begin in range(0, len(page["connections"]), 100):
            ids = [record["id"] for record in page["connections"][begin : begin + 100]]
            await asyncio.gather(*(service.call("DELETE", f"/v1/connections/{one}") for one in ids))
    async with nobody_waits(service, "the death of a worker"):
        os.kill((await service.get("/v1/workers/main"))["pid"], signal.SIGKILL)

        async def all_ended() -> bool:
            return (await service.get("/v1/connections?status=Connected&limit=1"))["connections"] == []

        await wait_for(all_ended)
