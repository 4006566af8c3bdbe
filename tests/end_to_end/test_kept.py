"""Kept connections, through everything: one id, many sockets."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import call, open_with
from tests.servers import EchoServer

CODE = "tests.end_to_end.kept_code"
OPTIONS = [
    "--app-dir",
    str(ROOT),
    "--function",
    f"get_seen={CODE}:get_seen",
    "--function",
    f"open_kept={CODE}:open_kept",
]
for _name in ("Stays", "CatchesUp", "CannotBeMade", "Mqtt"):
    OPTIONS += ["--handler", f"{_name}={CODE}:{_name}"]


STAYS_DOWN = {"minDelay": 3600, "maxDelay": 86400}
"""It is down until somebody asks. The delay is drawn from nothing to that: with a minute, one of a hundred would be back at once.
A close with 1013 has it drawn from eight times as much."""


async def status_of(service: RunningService, connection: int, status: str) -> dict[str, Any]:
    """Wait until the record says `status`, and return it."""

    async def look() -> dict[str, Any] | None:
        record = await service.record(connection)
        return record if record["status"] == status else None

    found: dict[str, Any] = await wait_for(look, what=f"{status} of connection {connection}")
    return found


async def ready_again(service: RunningService, connection: int, socket: int) -> dict[str, Any]:
    """Wait until that socket is ready, and return the record."""

    async def look() -> dict[str, Any] | None:
        record = await service.record(connection)
        return record if record["ready"] and record["socket"] == socket else None

    found: dict[str, Any] = await wait_for(look, what=f"socket {socket} of {connection}")
    return found


async def counted(service: RunningService, connection: int, **figures: int) -> dict[str, Any]:
    """Wait until the record has these figures, which a worker tells a little behind its events, and return it."""

    async def look() -> dict[str, Any] | None:
        record = await service.record(connection)
        return record if all(record["stats"][name] == value for name, value in figures.items()) else None

    found: dict[str, Any] = await wait_for(look, what=f"{figures} of connection {connection}")
    return found


async def test_it_comes_back_under_its_id_and_goes_on(service: RunningService, echo: EchoServer) -> None:
    opened = await service.open(echo.url, reconnect=STAYS_DOWN)
    kept = opened["id"]
    assert (opened["status"], opened["ready"], opened["socket"], opened["reconnects"]) == ("Connected", True, 1, 0)
    assert opened["reconnect"]["minDelay"] == 3600 and opened["down"] is None
    await service.send(kept, "one")
    await service.events(kept, count=2)

    await echo.sockets[0].close(code=1001, message=b"deploying")
    down = await status_of(service, kept, "Reconnecting")
    assert not down["ready"] and down["down"]["phase"] == "waiting" and down["down"]["nextAttemptAt"] is not None
    assert (await service.send(kept, "too early", status=409))["connectionStatus"] == "Reconnecting"
    assert (await service.call("POST", f"/v1/connections/{kept}/reconnect", 200, headers={"Prefer": "wait=60"}))[
        "ready"
    ]
    await service.send(kept, "two")
    events = await service.events(kept, count=5)
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onDisconnect", "onReconnect", "onMessage"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    lost, back = events[2]["event"], events[3]["event"]
    assert (lost["code"], lost["reason"], lost["wasClean"], lost["cause"]) == (1001, "deploying", True, "peer")
    assert (back["socket"], back["attempts"], back["restarted"]) == (2, 1, False)
    assert back["gapFrom"] == events[1]["time"]
    record = await counted(service, kept, messagesIn=2)
    assert (record["status"], record["socket"], record["reconnects"]) == ("Connected", 2, 1)
    assert record["stats"]["downMs"] > 0

    await echo.sockets[1].close(code=1012)
    await status_of(service, kept, "Reconnecting")
    ended = await service.call("DELETE", f"/v1/connections/{kept}")
    assert (ended["status"], ended["terminate"]["code"], ended["errors"]) == ("Closed", 1006, [])
    kinds = [event["kind"] async for event in service.stream(f"/v1/connections/{kept}/events")]
    assert kinds[-3:] == ["onMessage", "onDisconnect", "onTerminate"]
    assert len(echo.peers) == 2


async def test_the_death_of_its_worker_is_a_loss_and_the_next_process_has_it_back(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(*OPTIONS)
    kept = (await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"]
    other = (await service.open(echo.url))["id"]
    handled = (await open_with(service, echo.url, "Stays", reconnect=True))["id"]
    for connection in (kept, other, handled):
        await service.send(connection, "one")
        await service.events(connection, count=2)
    pid = (await service.get("/v1/workers/main"))["pid"]
    os.kill(pid, signal.SIGKILL)
    assert [event["kind"] for event in await service.events(other, until="onTerminate")][-1] == "onTerminate"
    events = await service.events(kept, until="onReconnect")
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    lost, back = events[2]["event"], events[3]["event"]
    assert (lost["cause"], lost["code"], lost["wasClean"], lost["nextAttemptAt"]) == ("workerDied", 1006, False, None)
    assert lost["errors"][0]["errCode"] == 301
    assert (back["restarted"], back["socket"], back["gapFrom"]) == (True, 2, events[1]["time"])
    await service.events(handled, until="onReconnect")
    await service.send(handled, "two")
    await service.events(handled, count=5)
    assert (await call(service, "get_seen"))[-2:] == [[handled, "reconnect", 2, True], [handled, "message", "two"]]
    record = await counted(service, kept, messagesIn=1)
    assert (record["status"], record["socket"]) == ("Connected", 2)
    assert len(echo.peers) == 5
