"""Kept connections that are refused, ordered to come back, or let in and never answered; over real sockets."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.test_kept_sockets import AT_ONCE, stays
from tests.servers import EchoServer, RawConnection, RawServer, frame


async def test_a_403_without_anything_to_renew_is_one_dial_and_the_end(shared: RunningService) -> None:  # 12
    async def script(connection: RawConnection) -> None:
        if len(server.connections) == 1:
            await stays(connection)
        else:
            connection.writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await connection.writer.drain()

    async with RawServer(script) as server:
        kept = (await shared.open(server.url, reconnect=AT_ONCE))["id"]
        server.connections[0].reset()
        events = await shared.events(kept, until="onTerminate")
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onError", "onTerminate"]
        assert events[2]["event"]["errors"][0]["errCode"] == 107
        assert len(server.connections) == 2


async def _refuses(connection: RawConnection, status: bytes = b"403 Forbidden") -> None:
    connection.writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
    await connection.writer.drain()


@pytest.mark.parametrize("good", [True, False])
async def test_a_refusal_reads_the_secret_again_once_and_another_one_is_the_end(
    start_service: StartService, tmp_path: Path, good: bool
) -> None:  # 12
    (tmp_path / "token").write_text("old")
    config = tmp_path / "mooring.toml"
    config.write_text(f'[secrets]\nfeed = {{from = "file:{tmp_path}/token", hosts = ["127.0.0.1"]}}\n')
    service = await start_service("--config", str(config))
    valid, sent = "old", []
    expired = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        sent.append(connection.headers["x-token"])
        if sent[-1] != valid:
            await _refuses(connection)
            return
        await connection.accept()
        if len(sent) == 1:
            await expired.wait()
            connection.writer.write(frame(8, (4401).to_bytes(2, "big") + b"expired"))
            await connection.writer.drain()
        await connection.read_close()

    async with RawServer(script) as server:
        headers = {"X-Token": "${secret:feed}"}
        kept = (await service.open(server.url, headers=headers, reconnect={"minDelay": 0.5}))["id"]
        valid = "new"
        (tmp_path / "token").write_text("new" if good else "old")
        expired.set()
        if good:
            events = await service.events(kept, until="onReconnect")
            assert events[1]["event"]["code"] == 4401 and sent == ["old", "new"]
            return
        events = await service.events(kept, until="onTerminate")
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onError", "onTerminate"]
        assert events[2]["event"]["errors"][0]["errCode"] == 107
        await asyncio.sleep(1)
        assert sent == ["old", "old"], "the close was the first refusal, the 403 the second: no dial follows"


async def test_fifty_orders_at_once_are_one_close_and_one_dial(shared: RunningService, echo: EchoServer) -> None:  # 17
    echo.released.set()
    kept = (await shared.open(f"{echo.url}held", reconnect=AT_ONCE, connectTimeout=60))["id"]
    echo.released.clear()
    headers = {"Prefer": "wait=60"}
    path = f"/v1/connections/{kept}/reconnect"
    waiting = [asyncio.create_task(shared.call("POST", path, 200, headers=headers)) for _ in range(50)]
    await wait_for(lambda: echo.handshakes == 2)
    for _ in range(5):
        await shared.call("POST", path, 202)  # behind all those that wait
    echo.released.set()
    answers = await asyncio.gather(*waiting)
    assert {answer["socket"] for answer in answers} == {2}
    events = await shared.events(kept, count=3)
    assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]
    assert len(echo.peers) == echo.handshakes == 2


LOGIN = {"send": {"login": "me"}, "expect": {"/welcome": True}}
TIMEOUT_S = 2.0


async def test_a_server_that_accepts_and_never_answers_the_login_is_never_connected(shared: RunningService) -> None:
    # 18, and 14: an end in the middle of a step
    answers = True

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await connection.read_frame()
        if answers:
            connection.writer.write(frame(1, b'{"welcome": true}'))
            await connection.writer.drain()
        await connection.read_close()

    async with RawServer(script) as server:
        recipe = {"opening": [{**LOGIN, "timeout": 60}]}
        kept = (await shared.open(server.url, recipe=recipe, reconnect=AT_ONCE, closeTimeout=60))["id"]
        recipe = {"opening": [{**LOGIN, "timeout": TIMEOUT_S}]}
        await shared.call("PATCH", f"/v1/connections/{kept}", json={"recipe": recipe})
        answers = False
        server.connections[0].reset()
        seen = set()

        async def back() -> bool:
            nonlocal answers
            answers = len(server.connections) >= 4  # so two have failed
            record = await shared.record(kept)
            seen.add((record["status"], record["ready"]))
            return bool(record["socket"] == 2)

        await wait_for(back)
        answers = False
        assert seen <= {("Reconnecting", False), ("Connected", True)}
        events = await shared.events(kept, until="onReconnect")
        assert [event["kind"] for event in events[:4]] == ["onOpen", "onMessage", "onDisconnect", "onReconnect"]
        failed = len(server.connections) - 2
        assert events[3]["event"]["attempts"] == failed + 1 and events[3]["event"]["downMs"] > failed * TIMEOUT_S * 1000

        recipe = {"opening": [{**LOGIN, "timeout": 60}]}
        await shared.call("PATCH", f"/v1/connections/{kept}", json={"recipe": recipe})
        server.connections[-1].reset()  # from here on nobody answers

        async def opening() -> bool:
            down = (await shared.record(kept))["down"]
            return bool(down and down["phase"] == "opening")

        await wait_for(opening)
        began = time.monotonic()
        ended = await shared.call("DELETE", f"/v1/connections/{kept}")
        assert time.monotonic() - began < 30, "nobody waits for what the step, or the close, may take"
        assert ended["terminate"]["code"] == 1006
        before = len(server.connections)
        await asyncio.sleep(1)
        assert len(server.connections) == before, "no socket follows"
        assert (await shared.events(kept, until="onTerminate"))[-1]["kind"] == "onTerminate"


async def test_each_dial_looks_its_host_up_anew_and_goes_where_it_is_now(
    start_service: StartService, tmp_path: Path
) -> None:  # 42
    config = tmp_path / "mooring.toml"
    config.write_text('[dial]\nhosts = { "feed.test" = ["127.0.0.1"] }\n')
    service = await start_service("--config", str(config))
    async with RawServer(stays) as old, RawServer(stays, host="127.0.0.2", port=old.port) as new:
        kept = (await service.open(f"ws://feed.test:{old.port}/", reconnect=AT_ONCE))["id"]
        assert (len(old.connections), len(new.connections)) == (1, 0)
        # Both stand for it now, and the policy denies the old one: it is not dialled any more, the new one is.
        config.write_text(
            '[dial]\nhosts = { "feed.test" = ["127.0.0.1", "127.0.0.2"] }\n[egress]\ndeny = ["127.0.0.1/32"]\n'
        )
        service.process.send_signal(signal.SIGHUP)
        await wait_for(lambda: "were read again" in service.log())
        old.connections[0].reset()
        await service.events(kept, until="onReconnect")
        assert (len(old.connections), len(new.connections)) == (1, 1)
