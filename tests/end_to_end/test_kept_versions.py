"""A service that does not speak the link of its workers any more: what is kept goes on in new processes; and names that move."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import StartService, wait_for
from tests.end_to_end.test_kept import ready_again
from tests.end_to_end.test_secrets import read_again
from tests.proxies import free_port
from tests.servers import EchoServer

NEWER = """
import mooring.link.messages as messages
messages.PROTOCOL_VERSION = messages.OLDEST_PROTOCOL_VERSION = messages.PROTOCOL_VERSION + 1
"""


async def test_a_worker_of_a_link_that_is_not_spoken_any_more_is_drained(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:  # 33
    service = await start_service()
    kept = (await service.open(echo.url, name="kept", headers={"A": "b"}, reconnect={"minDelay": 0.05}))["id"]
    persists = (await service.open(echo.url, reconnect={"minDelay": 0.05, "persist": True}))["id"]
    plain = (await service.open(echo.url))["id"]
    await service.kill()
    # The next program, and the workers that it starts, are of a later version.
    (tmp_path / "sitecustomize.py").write_text(NEWER)
    service.env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))}
    await service.start()
    for connection in (kept, persists):
        await ready_again(service, connection, 2)
        events = await service.events(connection, count=3)
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]
        lost, back = events[1]["event"], events[2]["event"]
        assert (lost["cause"], lost["errors"][0]["errCode"], back["restarted"]) == ("drained", 304, True)
    kinds = [event["kind"] for event in await service.events(plain, until="onTerminate")]
    assert kinds == ["onOpen", "onTerminate"]
    await wait_for(echo.peers[2].gone.is_set)
    assert echo.peers[2].close_code == 1001, "whoever is not kept is closed politely"
    assert echo.peers[3].headers.get("A") == "b" or echo.peers[4].headers.get("A") == "b"


async def test_a_name_that_moves_while_it_is_down_is_dialled_where_it_is_now(
    start_service: StartService, tmp_path: Path
) -> None:  # 42
    config = tmp_path / "mooring.toml"
    hosts = '[dial.hosts]\n"feed.test" = {}\n[egress]\ndeny = {}\n'
    config.write_text(hosts.format('["127.0.0.1"]', "[]"))
    service = await start_service("--config", str(config))
    port = free_port()
    first, other = EchoServer(), EchoServer()
    first.port = other.port = port
    other.host = "127.0.0.2"
    async with first:
        options = {"reconnect": {"minDelay": 0.05, "maxDelay": 0.2, "persist": True}}
        kept = (await service.open(f"ws://feed.test:{port}/", **options))["id"]
        await service.events(kept, count=1)
        # It moves, and the old address is denied: who is there keeps its socket.
        config.write_text(hosts.format('["127.0.0.2", "127.0.0.1"]', '["127.0.0.1/32"]'))
        await read_again(service)
        assert (await service.record(kept))["ready"]
    async with other:
        await ready_again(service, kept, 2)
        assert len(other.peers) == 1
    # Over a stop, too.
    await service.stop()
    async with other:
        await service.start()
        await ready_again(service, kept, 3)
