"""What persists survives an ordered stop, the death of everything, and a reboot, under its id."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import mooring
from tests.conftest import RunningService, StartService, end_processes, files_in, rounds, wait_for
from tests.end_to_end.test_connection_names import put
from tests.end_to_end.test_kept import ready_again
from tests.end_to_end.test_kept_sockets import Front
from tests.proxies import free_port
from tests.servers import EchoServer

CANARY = "canary-5f4dcc3b5aa7"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(CANARY)
    path = tmp_path / "mooring.toml"
    path.write_text(f'[secrets.feed]\nfrom = "file:{tmp_path}/token"\nhosts = ["127.0.0.1"]\n')
    return path


HEADERS = {"Authorization": "Bearer ${secret:feed}", "Origin": "http://plain.test"}


async def kinds_of(service: RunningService, connection: int) -> list[str]:
    return [event["kind"] for event in await service.events(connection)]


async def test_an_ordered_stop_is_a_gap_and_no_end(start_service: StartService, config: Path, echo: EchoServer) -> None:
    service = await start_service("--config", str(config))
    options = {"headers": HEADERS, "reconnect": {"minDelay": 0.05, "persist": True}}
    kept = await put(service, "feed", echo.url, 201, **options)
    other = await service.open(echo.url, reconnect=True)
    assert kept["reconnect"]["persist"] is True
    await service.send(kept["id"], "one")
    await service.events(kept["id"], count=2)
    assert await service.stop() == 0
    await wait_for(echo.peers[0].gone.is_set)
    assert echo.peers[0].close_code == 1001
    journal = service.state_dir / "journal.db"
    assert journal.stat().st_mode & 0o777 == 0o600
    for path, content in files_in(service.state_dir):
        assert CANARY.encode() not in content, path
    await service.start()
    assert (await service.record(other["id"]))["status"] == "Closed"
    record = await ready_again(service, kept["id"], 2)
    assert record["name"] == "feed" and record["reconnects"] == 1
    assert echo.peers[2].headers["Authorization"] == f"Bearer {CANARY}"
    events = await service.events(kept["id"], count=4)
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onDisconnect", "onReconnect"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    lost, back = events[2]["event"], events[3]["event"]
    assert (lost["cause"], lost["errors"][0]["errCode"], lost["nextAttemptAt"]) == ("serviceStopped", 302, None)
    assert back["restarted"] is True and back["gapFrom"] == events[1]["time"]
    # It is there under its name, and the same.
    assert (await put(service, "feed", echo.url, 200, **options))["id"] == kept["id"]
    # An end is an end.
    await service.call("DELETE", "/v1/connections/feed")
    await service.stop()
    await service.start()
    assert (await service.record(kept["id"]))["status"] == "Closed" and len(echo.peers) == 3


async def test_the_death_of_service_and_worker_is_survived(
    start_service: StartService, config: Path, echo: EchoServer
) -> None:
    service = await start_service("--config", str(config))
    kept = await service.open(echo.url, headers=HEADERS, reconnect={"minDelay": 0.05, "persist": True})
    other = await service.open(echo.url, worker="other", reconnect={"minDelay": 0.05})
    await service.send(kept["id"], "one")
    await service.events(kept["id"], count=2)
    # What it was changed to counts.
    await service.call("PATCH", f"/v1/connections/{kept['id']}", json={"url": f"{echo.url}new"})
    await service.kill_all()
    await service.start()
    record = await ready_again(service, kept["id"], 2)
    assert record["url"] == f"{echo.url}new" and echo.peers[-1].path_qs == "/new"
    assert echo.peers[-1].headers["Authorization"] == f"Bearer {CANARY}"
    events = await service.events(kept["id"], count=4)
    assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onDisconnect", "onReconnect"]
    assert events[2]["event"]["cause"] == "serviceRestarted" and events[3]["event"]["restarted"]
    assert (await service.events(other["id"], until="onTerminate"))[-1]["event"]["code"] == 1006
    assert (await service.record(other["id"]))["status"] == "Closed"


async def test_a_reboot_is_survived(start_service: StartService, config: Path, echo: EchoServer) -> None:
    """A fresh tree of processes: what it finds of the old one is the state directory alone."""
    service = await start_service("--config", str(config))
    kept = await service.open(echo.url, headers=HEADERS, worker="w", reconnect={"minDelay": 0.05, "persist": True})
    await service.kill_all()
    for path in ("address", "worker.sock"):
        (service.state_dir / path).unlink(missing_ok=True)
    await service.start()
    record = await ready_again(service, kept["id"], 2)
    assert record["worker"] == "w"
    assert (await kinds_of(service, kept["id"])) == ["onOpen", "onDisconnect", "onReconnect"]


async def test_a_half_open_line_is_lost_once_also_when_everything_dies_before_there_is_another(
    start_service: StartService, config: Path, echo: EchoServer
) -> None:  # 24, with persist
    service = await start_service("--config", str(config))
    async with Front(echo.port) as front:
        policy = {"minDelay": 0.05, "maxDelay": 0.2, "persist": True}
        url = f"ws://127.0.0.1:{front.port}/"
        kept = await service.open(url, pingInterval=1, pingTimeout=4, connectTimeout=5, reconnect=policy)
        front.swallows = True
        lost = (await service.events(kept["id"], until="onDisconnect"))[-1]["event"]
        assert (lost["cause"], lost["code"]) == ("ping", 1006)
        await wait_for(lambda: front.ended[0], what="the old socket is gone")
        await wait_for(lambda: len(front.ended) > 1, what="it is dialled again, in vain")
        await service.kill_all()
        await service.start()
        front.swallows = False
        await ready_again(service, kept["id"], 2)
        assert await kinds_of(service, kept["id"]) == ["onOpen", "onDisconnect", "onReconnect"]
        await service.send(kept["id"], "after")
        assert (await service.events(kept["id"], count=4))[-1]["event"]["data"] == "after"


async def test_one_that_is_down_stays_down_over_a_stop_and_is_lost_once(
    start_service: StartService, config: Path, echo: EchoServer
) -> None:
    service = await start_service("--config", str(config))
    away = EchoServer()
    away.port = free_port()  # nobody else is given it while it is away
    async with away:
        kept = await service.open(away.url, reconnect={"minDelay": 0.05, "maxDelay": 0.2, "persist": True})
    await service.events(kept["id"], until="onDisconnect")
    await service.stop()
    await service.start()
    await service.kill_all()
    await service.start()
    assert (await service.record(kept["id"]))["status"] == "Reconnecting"
    back = EchoServer()
    back.port = away.port
    async with back:
        await ready_again(service, kept["id"], 2)
    assert (await kinds_of(service, kept["id"]))[:3] == ["onOpen", "onDisconnect", "onReconnect"]


async def test_killing_its_worker_ends_it(start_service: StartService, config: Path, echo: EchoServer) -> None:
    service = await start_service("--config", str(config))
    kept = await service.open(echo.url, reconnect={"persist": True})
    await service.call("DELETE", "/v1/workers/main")
    record = await service.record(kept["id"])
    assert record["status"] == "Closed" and record["terminate"]["wasClean"]
    await service.stop()
    await service.start()
    assert (await service.record(kept["id"]))["status"] == "Closed" and len(echo.peers) == 1


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"headers": {"A": "literal"}}, "/headers/A"),
        ({"headers": {"Origin": "o", "A": ["${secret:feed}", "literal"]}}, "/headers/A"),
        ({"headers": {"A": "$${secret:feed}"}}, "/headers/A"),
        ({"proxy": {"url": "http://p.test:1", "username": "u", "password": "p"}}, "/proxy/password"),
    ],
)
async def test_what_would_be_a_secret_on_disk_is_refused(
    start_service: StartService, config: Path, echo: EchoServer, more: dict[str, Any], pointer: str
) -> None:
    service = await start_service("--config", str(config))
    problem = await service.open(echo.url, 422, reconnect={"persist": True}, **more)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert echo.handshakes == 0


async def test_a_journal_in_memory_persists_nothing(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(env={"MOORING_JOURNAL_STORE": "memory"})
    problem = await service.open(echo.url, 422, reconnect={"persist": True})
    assert [error["pointer"] for error in problem["errors"]] == ["/reconnect/persist"]


async def test_a_handler_that_asks_a_journal_in_memory_to_persist_it_is_refused_at_its_attribute(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    config = tmp_path / "mooring.toml"
    handlers = '[handlers]\npersists = "kept_code:Persists"\n'
    config.write_text(handlers + '[journal]\nstore = "memory"\n')
    service = await start_service("--config", str(config), "--app-dir", str(Path(__file__).parent))
    problem = await service.open(echo.url, 422, handler={"name": "persists"})
    detail = "Persists.reconnect/persist: journal.store is memory: nothing outlives the service"
    assert problem["errors"] == [{"pointer": "/handler", "detail": detail}] and echo.handshakes == 0
    await service.stop()
    config.write_text(handlers)
    await service.start()
    kept = await service.open(echo.url, handler={"name": "persists"})
    assert kept["reconnect"]["persist"] is True


@rounds(3, 40)
async def test_whenever_everything_dies_each_comes_back_once(
    start_service: StartService, config: Path, rounds: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with EchoServer() as echo:
        # However many die within a minute, each is restarted.
        often = {"MOORING_SUPERVISOR_RESTART_BUDGET": "1000", "MOORING_SUPERVISOR_RESTART_DELAY_MAX": "0.1"}
        service = await start_service("--config", str(config), env=often)
        ids = [
            (await service.open(f"{echo.url}{n}", worker=f"w{n % 2}", reconnect={"minDelay": 0.05, "persist": True}))[
                "id"
            ]
            for n in range(6)
        ]
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0, 0.4))
            how = chance.choice(["stop", "kill", "service", "worker"])
            if how == "stop":
                await service.stop()
            elif how == "kill":
                await service.kill_all()
            elif how == "service":
                await service.kill()
            else:
                end_processes(service.worker_pids())
            if how != "worker":
                await service.start()
        for connection in ids:

            async def ready(connection: int = connection) -> list[Any]:
                # Just behind a death the record is that of before it.
                events = await service.events(connection, count=1)
                back = (await service.record(connection))["ready"] and events[-1]["kind"] in ("onOpen", "onReconnect")
                return events if back else []

            events = await wait_for(ready, what=f"{connection} is back")
            kinds = [event["kind"] for event in events]
            assert [event["seq"] for event in events] == list(range(1, len(kinds) + 1))
            assert kinds[0] == "onOpen" and kinds[1:] == ["onDisconnect", "onReconnect"] * (len(kinds) // 2), kinds
        open_paths = [peer.path_qs for peer in echo.peers if not peer.gone.is_set()]
        await wait_for(
            lambda: sum(not peer.gone.is_set() for peer in echo.peers) == 6, what=f"one socket each: {open_paths}"
        )


async def test_what_waits_for_a_failed_worker_is_there_after_a_restart_in_order(
    start_service: StartService, echo: EchoServer
) -> None:
    """With its secret, which is nowhere on disk; what persists waits over an ordered stop, too, which ends the worker's failure."""
    service = await start_service(env={"MOORING_SUPERVISOR_RESTART_BUDGET": "1"})
    kept = (await service.open(echo.url, headers={"A": CANARY}, reconnect={"minDelay": 0.05}))["id"]
    persists = (await service.open(echo.url, reconnect={"minDelay": 0.05, "persist": True}))["id"]
    for socket in (1, 2):
        await ready_again(service, kept, socket)
        await ready_again(service, persists, socket)
        os.kill(service.worker_pids()[0], signal.SIGKILL)

    async def failed() -> bool:
        return bool((await service.get("/v1/workers/main"))["status"] == "Failed")

    await wait_for(failed)
    for _ in range(2):
        ran = await mooring(service, "restart")
        assert ran.code == 0, ran.errors
        await wait_for(service.is_ready)
        for connection in (kept, persists):
            record = await service.record(connection)
            assert (record["status"], record["down"]["phase"]) == ("Reconnecting", "blocked")
    for path, content in files_in(service.state_dir):
        assert CANARY.encode() not in content, path
    await service.call("PUT", "/v1/workers/main", None)
    await ready_again(service, kept, 3)
    await ready_again(service, persists, 3)
    assert sum(peer.headers.get("A") == CANARY for peer in echo.peers) == 3
    for connection in (kept, persists):
        kinds = await kinds_of(service, connection)
        assert kinds == ["onOpen"] + ["onDisconnect", "onReconnect"] * 2
