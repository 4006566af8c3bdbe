"""Declared connections: what the configuration says and what there is become the same, at the start and whenever it is read again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import mooring
from tests.conftest import RunningService, StartService, files_in, wait_for
from tests.end_to_end.test_kept import ready_again
from tests.end_to_end.test_secrets import read_again
from tests.proxies import free_port
from tests.servers import EchoServer

CANARY = "canary-9e107d9d372b"


async def named(service: RunningService, name: str, status: str = "Connected") -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        record = await service.call("GET", f"/v1/connections/{name}", None)
        return record if record.get("status") == status and not (isinstance(record["status"], int)) else None

    found: dict[str, Any] = await wait_for(look, what=f"{name} {status}")
    return found


def declare(path: Path, **connections: str) -> None:
    path.write_text("".join(f"[connections.{name}]\n{text}\n" for name, text in connections.items()))


def no_canary_in(service: RunningService) -> None:
    """Nothing of the secret is in any file of the service, which may be writing them just now."""
    for path, content in files_in(service.state_dir):
        assert CANARY.encode() not in content, path


async def test_it_is_opened_kept_changed_and_ended_as_the_file_says(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    config = tmp_path / "mooring.toml"
    declare(config, feed=f'url = "{echo.url}one"\nheaders = {{ A = "{CANARY}" }}', other=f'url = "{echo.url}other"')
    service = await start_service("--config", str(config))
    feed, other = await named(service, "feed"), await named(service, "other")
    assert feed["reconnect"]["first"] == "retry" and feed["reconnect"]["persist"] is True
    assert feed["headers"] == {"A": "***"}

    # Requests use it, and do not change it.
    async with service.client.post(
        "/v1/connections/feed/messages", data=b"one", headers={"Content-Type": "text/plain"}
    ) as response:
        assert response.status == 200
    await service.call("POST", "/v1/connections/feed/reconnect", 200, headers={"Prefer": "wait=60"})
    for method, more in (
        ("DELETE", {}),
        ("PATCH", {"json": {"url": echo.url}}),
        ("PUT", {"json": {"url": f"{echo.url}one"}}),
    ):
        problem = await service.call(method, "/v1/connections/feed", 409, **more)
        assert problem["type"].endswith(":declared") and str(config) in problem["detail"], problem

    # The same again touches nothing; a change is one of the same connection; what is gone ends.
    handshakes = echo.handshakes
    await read_again(service)
    declare(config, feed=f'url = "{echo.url}two"\nheaders = {{ A = "{CANARY}" }}\nreconnect = {{ minDelay = 0.1 }}')
    await read_again(service)
    ended = await named(service, "other", "Closed")
    assert ended["id"] == other["id"]

    async def changed() -> bool:
        return bool((await service.record(feed["id"]))["url"] == f"{echo.url}two")

    await wait_for(changed)
    record = await service.record(feed["id"])
    assert record["reconnect"]["minDelay"] == 0.1 and record["reconnect"]["first"] == "retry"
    assert echo.handshakes == handshakes, "the socket that it has stays"
    # What cannot be changed in its life is replaced.
    declare(config, feed=f'url = "{echo.url}two"\ndataType = "blob"\nreconnect = true')
    await read_again(service)

    async def replaced() -> bool:
        record = await service.get("/v1/connections/feed")
        return bool(record["id"] != feed["id"] and record["status"] == "Connected" and record["dataType"] == "blob")

    await wait_for(replaced)
    assert (await service.record(feed["id"]))["status"] == "Closed"
    no_canary_in(service)


async def test_it_outlives_stops_restarts_and_the_death_of_everything(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    config = tmp_path / "mooring.toml"
    text = f'url = "{echo.url}one"\nheaders = {{ A = "{CANARY}" }}\nreconnect = {{ minDelay = 0.05 }}'
    declare(config, feed=text)
    service = await start_service("--config", str(config))
    feed = (await named(service, "feed"))["id"]
    await service.stop()
    await service.start()
    await ready_again(service, feed, 2)
    await service.kill_all()
    await service.start()
    await ready_again(service, feed, 3)
    assert echo.peers[-1].headers["A"] == CANARY
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    await asyncio.sleep(0.2)
    assert (await service.record(feed))["socket"] == 3 and len(echo.peers) == 3
    kinds = [event["kind"] for event in await service.events(feed, count=5)]
    assert kinds == ["onOpen"] + ["onDisconnect", "onReconnect"] * 2
    # Changed while nothing ran.
    await service.stop()
    declare(config, feed=text.replace("one", "two"), new=f'url = "{echo.url}new"')
    await service.start()
    await ready_again(service, feed, 4)
    assert echo.peers[-1].path_qs in ("/two", "/new")
    assert (await named(service, "new"))["id"] != feed
    assert "/two" in {peer.path_qs for peer in echo.peers}
    # Gone while nothing ran.
    await service.stop()
    declare(config, new=f'url = "{echo.url}new"')
    await service.start()
    assert (await named(service, "feed", "Closed"))["id"] == feed
    no_canary_in(service)


async def test_a_server_that_is_away_at_the_start_ends_nothing(start_service: StartService, tmp_path: Path) -> None:
    config = tmp_path / "mooring.toml"
    port = free_port()
    declare(config, feed=f'url = "ws://127.0.0.1:{port}/"\nreconnect = {{ minDelay = 0.05, maxDelay = 0.1 }}')
    service = await start_service("--config", str(config), env={"MOORING_READINESS_DOWN_AFTER": "0.05"})
    record = await named(service, "feed", "Connecting")

    async def down() -> bool:
        return bool((await service.get("/readyz")).get("down") == 1)

    await wait_for(down)
    back = EchoServer()
    back.port = port
    async with back:
        assert (await named(service, "feed"))["id"] == record["id"]
        assert (await service.get("/readyz"))["down"] == 0


async def test_a_connection_of_a_request_keeps_the_name_until_its_end(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    assert "down" not in await service.get("/readyz")
    taken = await service.open(echo.url, name="feed")
    declare(config, feed=f'url = "{echo.url}declared"')
    await read_again(service)
    await wait_for(lambda: "connections.feed is not opened: a request has opened connection" in service.log())
    assert (await service.get("/v1/connections/feed"))["id"] == taken["id"]
    await service.call("DELETE", "/v1/connections/feed")
    await read_again(service)
    assert (await named(service, "feed"))["url"] == f"{echo.url}declared"
    # Killed with its worker, it is opened again by the next reading.
    await service.call("DELETE", "/v1/workers/main")
    assert (await named(service, "feed", "Closed"))["url"] == f"{echo.url}declared"
    await read_again(service)
    await named(service, "feed")


async def test_a_journal_in_memory_opens_them_anew_at_each_start(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text(f'[journal]\nstore = "memory"\n[connections.feed]\nurl = "{echo.url}"\n')
    service = await start_service("--config", str(config))
    await named(service, "feed")
    await service.stop()
    await service.start()
    await named(service, "feed")
    assert len(echo.peers) == 2


URL = 'url = "ws://127.0.0.1:1/"\n'


async def test_a_broken_declaration_refuses_reload_check_and_start(start_service: StartService, tmp_path: Path) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    declare(config, feed=f"{URL}reconnect = false", good=URL)
    await read_again(service, "SIGHUP: nothing was changed: connections.feed.reconnect: a declared connection is kept")
    ran = await mooring(service, "check", "--config", str(config))
    assert ran.code == 1 and "no  connection feed: connections.feed.reconnect: a declared connection is kept" in ran.out
    assert "ok  connection good" in ran.out
    with pytest.raises(AssertionError, match=r"connections.feed.reconnect: a declared connection is kept"):
        await start_service("--config", str(config), name="other")
