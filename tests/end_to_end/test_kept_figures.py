"""What is counted of kept connections, by `/metrics`: losses, returns, waits, ends; and for how long somebody is down."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, status_of
from tests.end_to_end.test_metrics import metrics
from tests.servers import EchoServer


def of(name: str, **labels: str) -> str:
    """Return the name of a sample of the worker `main`."""
    return f"mooring_{name}{json.dumps({**labels, 'worker': 'main'}, sort_keys=True)}"


async def _until(service: RunningService, name: str, value: float) -> dict[str, float]:
    async def look() -> dict[str, float] | None:
        found = await metrics(service)
        return found if found.get(name) == value else None

    found: dict[str, float] = await wait_for(look, what=f"{name} {value:g}")
    return found


async def test_a_loss_a_return_and_an_end_are_each_counted_once(service: RunningService, echo: EchoServer) -> None:
    kept = (await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"]
    await echo.sockets[0].close(code=1001)
    await service.events(kept, until="onReconnect")
    found = await _until(service, of("reconnects_total"), 1)
    assert found[of("disconnects_total", cause="peer")] == 1
    assert found[of("redials_total", outcome="ready")] == 2, "the first one counts, too"
    assert found[of("down_seconds_count")] == 1
    assert 0 < found[of("down_seconds_sum")] < 60
    assert found[of("redial_wait_seconds_count", by="backoff")] == 1
    assert found[of("redial_wait_seconds_count", by="limiter")] == 1
    assert found[of("oldest_down_seconds")] == 0

    stopped = (await service.open(echo.url, reconnect=True))["id"]
    await echo.sockets[2].close(code=1009)
    await service.events(stopped, until="onTerminate")
    down = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[3].close(code=1013)
    await status_of(service, down, "Reconnecting")
    found = await _until(service, of("down_connections", phase="waiting"), 1)
    assert found[of("oldest_down_seconds")] > 0
    await service.call("DELETE", f"/v1/connections/{down}")
    await service.call("DELETE", f"/v1/connections/{kept}")
    found = await _until(service, of("terminations_total", why="asked"), 2)
    assert found[of("terminations_total", why="stopCode")] == 1
    assert not any(name.startswith("mooring_down_connections") for name in found)


async def test_what_the_service_writes_for_a_dead_worker_is_counted_too(
    service: RunningService, echo: EchoServer
) -> None:
    kept = (await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"]
    os.kill((await service.get("/v1/workers/main"))["pid"], signal.SIGKILL)
    await service.events(kept, until="onReconnect")
    found = await _until(service, of("reconnects_total"), 1)
    assert found[of("disconnects_total", cause="workerDied")] == 1


async def test_readyz_tells_how_many_have_been_down_for_too_long_where_it_is_asked_to(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    down = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await service.open(echo.url, reconnect=STAYS_DOWN)
    await echo.sockets[0].close(code=1013)
    await status_of(service, down, "Reconnecting")
    assert "down" not in await service.get("/readyz")
    config.write_text("[readiness]\ndown_after = 0.2\n")
    service.process.send_signal(signal.SIGHUP)

    async def told() -> bool:
        return bool((await service.get("/readyz")).get("down") == 1)

    await wait_for(told)
    assert (await service.get("/readyz"))["ready"], "it is a figure, and no reason"
    await service.call("POST", f"/v1/connections/{down}/reconnect", 200, headers={"Prefer": "wait=60"})
    assert (await service.get("/readyz"))["down"] == 0
