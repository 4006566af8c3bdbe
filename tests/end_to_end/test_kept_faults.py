"""What kept connections survive, and what ends them: deaths, drains, restarts, orders, a policy that changes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.command_line import mooring
from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.end_to_end.test_kept import CODE, OPTIONS, STAYS_DOWN, ready_again, status_of
from tests.end_to_end.with_user_code import call, open_with
from tests.proxies import free_port
from tests.servers import EchoServer, FeedServer, RawConnection, RawServer, frame


async def _pid(service: RunningService, worker: str = "main") -> int:
    return int((await service.get(f"/v1/workers/{worker}"))["pid"])


async def _kinds(service: RunningService, connection: int) -> list[str]:
    return [event["kind"] for event in await service.events(connection, count=1)]


async def test_five_hundred_come_back_from_the_death_of_their_worker_at_the_pace_of_the_limit(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:  # 28
    config = tmp_path / "mooring.toml"
    config.write_text("[redial]\nrate = 100\nburst = 10\n")
    service = await start_service("--config", str(config))
    kept = [
        record["id"]
        for record in await asyncio.gather(*(service.open(echo.url, reconnect={"minDelay": 0.05}) for _ in range(500)))
    ]
    before = len(echo.peers)
    began = time.monotonic()
    os.kill(await _pid(service), signal.SIGKILL)

    async def all_back() -> bool:
        page = await service.get("/v1/connections?limit=1000&status=Connected")
        return len(page["connections"]) == 500 and all(record["socket"] == 2 for record in page["connections"])

    await wait_for(all_back, 100)
    took = time.monotonic() - began
    print(f"500 are back after {took:.1f} s")
    assert took > 4.5, "490 of them wait for their turn, at 100 a second"
    assert len(echo.peers) == before + 500
    for connection in kept:
        events = await service.events(connection, count=3)
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]
        assert [event["seq"] for event in events] == [1, 2, 3]
        assert (events[1]["event"]["cause"], events[2]["event"]["restarted"]) == ("workerDied", True)


async def test_who_was_down_when_its_worker_died_is_not_told_so_twice_and_a_failed_worker_blocks_it(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:  # 29
    config = tmp_path / "mooring.toml"
    config.write_text("[supervisor]\nrestart_budget = 1\nrestart_window = 600\n")
    service = await start_service("--config", str(config))
    up = [(await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"] for _ in range(4)]
    down = [(await service.open(echo.url, reconnect=STAYS_DOWN))["id"] for _ in range(4)]
    for index, connection in enumerate(down):
        await echo.sockets[4 + index].close(code=1013)
        await status_of(service, connection, "Reconnecting")
    os.kill(await _pid(service), signal.SIGKILL)
    for connection in up + down:
        await service.events(connection, until="onReconnect")
    os.kill(await _pid(service), signal.SIGKILL)

    async def failed() -> bool:
        return (await service.get("/v1/workers/main"))["status"] == "Failed"

    await wait_for(failed)
    for connection in up + down:
        record = await status_of(service, connection, "Reconnecting")
        assert (record["down"]["phase"], record["down"]["nextAttemptAt"]) == ("blocked", None)
        assert record["down"]["errors"][0]["errCode"] == 301
    assert (await service.get("/readyz"))["degraded"] == ["main"]
    assert (await service.send(up[0], "x", status=409))["connectionStatus"] == "Reconnecting"
    waits = await service.call("POST", f"/v1/connections/{up[0]}/reconnect", 202)
    assert waits["down"]["phase"] == "blocked"
    await service.call("POST", f"/v1/connections/{up[0]}/reconnect", 504, headers={"Prefer": "wait=0"})
    ended = await service.call("DELETE", f"/v1/connections/{up[1]}")
    assert (ended["status"], ended["terminate"]["code"], ended["down"]) == ("Closed", 1006, None)

    await service.call("PUT", "/v1/workers/main")
    for connection in up[:1] + up[2:] + down:
        await status_of(service, connection, "Connected")
        assert await _kinds(service, connection) == ["onOpen"] + ["onDisconnect", "onReconnect"] * 2
    assert await _kinds(service, up[1]) == ["onOpen", "onDisconnect", "onReconnect", "onDisconnect", "onTerminate"]
    assert len(echo.peers) == 8 + 8 + 7


async def test_one_that_was_never_ready_goes_on_trying_in_the_next_process_if_it_was_to(
    service: RunningService, echo: EchoServer
) -> None:
    refused = "ws://127.0.0.1:1/"
    retrying = await service.open(refused, 202, reconnect={"first": "retry", **STAYS_DOWN})
    assert (retrying["status"], retrying["down"]["phase"], retrying["socket"]) == ("Connecting", "waiting", 0)
    async with RawServer(lambda connection: asyncio.sleep(3600)) as silent:
        opening = asyncio.create_task(service.open(silent.url, 502, reconnect=True))
        retried = asyncio.create_task(service.open(silent.url, 202, reconnect={"first": "retry"}))
        await wait_for(lambda: len(silent.connections) == 2)
        os.kill(await _pid(service), signal.SIGKILL)
        failed, waiting = await asyncio.gather(opening, retried)
        assert failed["errors"][0]["errCode"] == 301
        assert (await service.record(failed["connection"]))["status"] == "Closed"
        assert (waiting["status"], waiting["down"]["phase"]) == ("Connecting", "blocked")
        await wait_for(lambda: len(silent.connections) >= 3)

    async def dialled_again() -> bool:
        down = (await service.record(retrying["id"]))["down"]
        return bool(down["phase"] == "waiting" and down["attempt"] >= 1)

    await wait_for(dialled_again)
    assert (await service.get(f"/v1/connections/{retrying['id']}/events"))["events"] == []
    ended = await service.call("DELETE", f"/v1/connections/{retrying['id']}")
    assert [error["errCode"] for error in ended["errors"]] == [110]
    assert await _kinds(service, retrying["id"]) == ["onError", "onTerminate"]


async def test_a_killed_service_is_not_seen_by_those_that_are_down_meanwhile(start_service: StartService) -> None:  # 30
    service = await start_service()
    port = free_port()
    async with FeedServer(rate=50, port=port) as feed:
        url = f"{feed.url}a"
        beat = {"send": "alive", "interval": 1}
        kept = (await service.open(url, reconnect={"minDelay": 0.05, "maxDelay": 0.2}, keepAlive=beat))["id"]
        await service.events(kept, count=10)
        await service.kill()
        cut_at = time.time() - 0.001
    await asyncio.sleep(0.5)
    beaten = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"1"))
        await connection.read_frame()  # only who is told that it is back has a heartbeat
        beaten.set()
        await connection.read_close()

    async with RawServer(script, port=port):
        await asyncio.wait_for(beaten.wait(), 60)
        back_at = time.time()
        await service.start()
        await wait_for(service.is_ready)
        events = await service.events(kept, until="onReconnect")
        seqs = [event["seq"] for event in events]
        assert seqs == list(range(1, len(seqs) + 1))
        (lost,) = (event for event in events if event["kind"] == "onDisconnect")
        (back,) = (event for event in events if event["kind"] == "onReconnect")
        assert cut_at < _seconds(lost["time"]) < _seconds(back["time"]) < back_at, (
            "each as it was, and not as it was told"
        )
        assert not back["event"]["restarted"], "the worker is the same"
        assert (await service.record(kept))["socket"] == 2


def _seconds(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()


async def test_a_restart_in_order_changes_nothing_for_one_that_waits(service: RunningService, echo: EchoServer) -> None:
    # 31
    kept = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[0].close(code=1013)
    before = await status_of(service, kept, "Reconnecting")
    assert "restarted in" in (await mooring(service, "restart")).out
    await wait_for(service.is_ready)
    after = await service.record(kept)
    assert after["status"] == "Reconnecting" and after["down"]["phase"] == "waiting"
    apart = _seconds(after["down"]["nextAttemptAt"]) - _seconds(before["down"]["nextAttemptAt"])
    assert abs(apart) < 1
    assert await _kinds(service, kept) == ["onOpen", "onDisconnect"]
    await service.call("POST", f"/v1/connections/{kept}/reconnect", 200, headers={"Prefer": "wait=60"})
    assert await _kinds(service, kept) == ["onOpen", "onDisconnect", "onReconnect"]


async def test_the_restarted_service_knows_what_its_workers_keep_and_has_it_opened_again_after_a_death(
    service: RunningService, echo: EchoServer
) -> None:
    kept = (await service.open(echo.url, headers={"X-Secret": "s3"}, reconnect={"minDelay": 0.05}))["id"]
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    os.kill(await _pid(service), signal.SIGKILL)
    events = await service.events(kept, until="onReconnect")
    assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]
    assert echo.peers[1].headers["X-Secret"] == "s3"


async def test_both_killed_it_ends_once(service: RunningService, echo: EchoServer) -> None:  # 32, without persist
    kept = (await service.open(echo.url, reconnect=True))["id"]
    pid = await _pid(service)
    await service.kill()
    os.kill(pid, signal.SIGKILL)
    await service.start()
    await wait_for(service.is_ready)
    events = await service.events(kept, until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onTerminate"]
    assert (await service.record(kept))["status"] == "Closed"


async def test_a_drain_waits_for_those_that_are_not_kept_and_costs_the_others_one_start_of_a_process(
    start_service: StartService, echo: EchoServer
) -> None:  # 33, in order
    service = await start_service(*OPTIONS)
    other = (await service.open(echo.url))["id"]
    kept = (await open_with(service, echo.url, "Stays"))["id"]
    down = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[2].close(code=1013)
    await status_of(service, down, "Reconnecting")
    old = await _pid(service)
    await service.call("POST", "/v1/workers/main/drain", 202)
    await service.open(echo.url, 409)
    await service.send(kept, "goes on")
    await service.events(kept, count=2)
    await service.call("DELETE", f"/v1/connections/{other}")

    events = await service.events(kept, until="onReconnect")
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onDisconnect", "onReconnect"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    lost = events[2]["event"]
    await wait_for(echo.peers[1].gone.is_set)
    assert (lost["cause"], lost["wasClean"], echo.peers[1].close_code) == ("drained", True, 1001)
    assert lost["errors"][0]["errCode"] == 304
    assert events[3]["event"]["restarted"] and events[3]["event"]["gapFrom"] == events[1]["time"]
    assert await _pid(service) != old
    assert (await status_of(service, down, "Connected"))["socket"] == 2
    assert await _kinds(service, down) == ["onOpen", "onDisconnect", "onReconnect"]
    assert await call(service, "get_seen") == [[kept, "reconnect", 2, True]]
    await service.open(echo.url)


@pytest.mark.parametrize("how", ["running", "failed"])
async def test_a_killed_worker_takes_its_kept_connections_with_it(
    start_service: StartService, echo: EchoServer, tmp_path: Path, how: str
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("[supervisor]\nrestart_budget = 1\nrestart_window = 600\n")
    service = await start_service("--config", str(config))
    kept = (await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"]
    down = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[1].close(code=1013)
    await status_of(service, down, "Reconnecting")
    if how == "failed":
        for socket in (1, 2):
            await ready_again(service, kept, socket)
            os.kill(await _pid(service), signal.SIGKILL)
        await wait_for(lambda: "is Failed" in service.log())
    await service.call("DELETE", "/v1/workers/main")
    for connection in (kept, down):
        record = await service.record(connection)
        assert record["status"] == "Closed" and record["down"] is None
        assert (await _kinds(service, connection))[-1] == "onTerminate"
    if how == "running":
        await wait_for(echo.peers[0].gone.is_set)
        assert echo.peers[0].close_code == 1001 and (await service.record(kept))["terminate"]["wasClean"]
    await service.call("PUT", "/v1/workers/main", 201)
    await asyncio.sleep(0.5)
    assert (await service.get("/v1/workers/main"))["connections"] == 0


async def test_an_ordered_stop_ends_them_all(service: RunningService, echo: EchoServer) -> None:
    up = (await service.open(echo.url, reconnect=True))["id"]
    down = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[1].close(code=1013)
    await status_of(service, down, "Reconnecting")
    assert await service.stop() == 0
    await service.start()
    events = {connection: await service.events(connection, until="onTerminate") for connection in (up, down)}
    assert [event["kind"] for event in events[up]] == ["onOpen", "onTerminate"]
    await wait_for(echo.peers[0].gone.is_set)
    assert (echo.peers[0].close_code, events[down][-1]["event"]["code"]) == (1001, 1006)
    assert [event["kind"] for event in events[down]] == ["onOpen", "onDisconnect", "onTerminate"]


async def test_a_policy_that_refuses_the_host_ends_who_is_down_and_leaves_the_others(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:  # 34
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    url = f"ws://localhost:{echo.port}/"
    live = (await service.open(url, reconnect={"minDelay": 0.05}))["id"]
    down = (await service.open(url, reconnect=STAYS_DOWN))["id"]
    await echo.sockets[1].close(code=1013)
    await status_of(service, down, "Reconnecting")
    config.write_text("[egress]\ndeny = ['localhost']\n")
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: "were read again" in service.log())
    await service.send(live, "still here")
    await service.call("POST", f"/v1/connections/{down}/reconnect", 202)
    events = await service.events(down, until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onError", "onTerminate"]
    assert events[2]["event"]["errors"][0]["errCode"] == 106
    assert (await service.record(live))["status"] == "Connected"
    assert len(echo.peers) == 2


async def test_a_handler_that_cannot_be_made_again_ends_its_connections_and_no_others(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:  # 35
    config = tmp_path / "mooring.toml"
    names = {name: f"{CODE}:{name}" for name in ("CannotBeMade", "Stays")}
    handlers = "\n".join(f"{name} = '{reference}'" for name, reference in names.items())
    config.write_text(f"[handlers]\n{handlers}\nRenamed = '{CODE}:Stays'\n")
    service = await start_service("--config", str(config), "--app-dir", str(ROOT))
    once = {"name": "CannotBeMade", "params": {"path": str(tmp_path / "made")}}
    broken = (await service.open(echo.url, handler=once, reconnect={"minDelay": 0.05}))["id"]
    renamed = (await open_with(service, echo.url, "Renamed"))["id"]
    good = (await open_with(service, echo.url, "Stays"))["id"]
    plain = (await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"]
    config.write_text(f"[handlers]\n{handlers}\n")
    assert "restarted in" in (await mooring(service, "restart")).out
    await wait_for(service.is_ready)
    os.kill(await _pid(service), signal.SIGKILL)
    for connection in (good, plain):
        await service.events(connection, until="onReconnect")
    for connection, why in ((broken, "cannot be constructed"), (renamed, "not in [handlers] any more")):
        events = await service.events(connection, until="onTerminate")
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onError", "onTerminate"]
        (error,) = events[2]["event"]["errors"]
        assert error["errCode"] == 111 and why in error["message"]
    assert len(echo.peers) == 6


async def test_what_code_in_a_worker_has_opened_ends_with_it(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(*OPTIONS)
    made = await call(service, "open_kept", echo.url)
    record = await service.record(made)
    assert record["reconnect"]["minDelay"] == 0.05 and record["status"] == "Connected"
    await service.call("POST", "/v1/workers/main/drain", 202)
    events = await service.events(made, until="onTerminate")
    await wait_for(echo.peers[0].gone.is_set)
    assert (echo.peers[0].close_code, events[-1]["event"]["wasClean"]) == (1001, True), "it holds up no drain"
    again = await call(service, "open_kept", echo.url)
    await service.events(again, until="onOpen")  # what a worker has not told yet dies with it
    os.kill(await _pid(service), signal.SIGKILL)
    events = await service.events(again, until="onTerminate")
    assert [event["kind"] for event in events] == ["onOpen", "onTerminate"]
    assert events[-1]["event"]["code"] == 1006
