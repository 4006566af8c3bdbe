"""What goes wrong with a recipe at any time of an id's life has a defined end, and shows no secret."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.conftest import RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_kept import status_of
from tests.end_to_end.test_metrics import metrics
from tests.end_to_end.test_secrets import everything, read_again
from tests.scripted import HttpServer, Scripted

AGAIN = {"minDelay": 0.05, "maxDelay": 0.1}
DROPPED = 'mooring_opening_dropped_messages_total{"worker": "main"}'


async def test_more_than_may_be_held_before_the_awaited_answer_is_a_failed_opening(
    start_service: StartService, tmp_path: Path
) -> None:  # 20
    config = tmp_path / "mooring.toml"
    config.write_text("[worker]\ninbound_messages = 100\n")
    service = await start_service("--config", str(config))

    async def talks(server: Scripted, socket: web.WebSocketResponse) -> None:
        for number in range(100 if len(server.sockets) == 3 else 101):
            await socket.send_str(f"news {number}")
        if len(server.sockets) == 3:
            await socket.send_str("ok")
        await server.listen(socket)

    async with Scripted(talks) as server:
        recipe = {"opening": [{"expect": "ok", "timeout": 20}]}
        problem = await service.open(server.url, recipe=recipe, status=502)
        assert problem["type"].endswith(":opening-failed") and problem["errors"][0]["errCode"] == 112
        assert "inbound_messages" in problem["errors"][0]["message"]
        assert [event["kind"] for event in await service.events(problem["connection"], count=2)] == [
            "onError",
            "onTerminate",
        ]
        first = await wait_for(lambda: _dropped(service, 101), what="what was dropped is counted")
        # Kept, that is a failed attempt; with as many as may be held the next one is ready, and they are there.
        kept = await service.open(server.url, recipe=recipe, reconnect={**AGAIN, "first": "retry"}, status=202)
        events = await service.events(kept["id"], count=102)
        assert [event["kind"] for event in events] == ["onOpen", *["onMessage"] * 101]
        assert [event["event"]["data"] for event in events[1:]] == [*(f"news {number}" for number in range(100)), "ok"]
        await wait_for(lambda: _dropped(service, first + 101), what="of each opening")
        assert (await service.record(kept["id"]))["reconnects"] == 0


async def _dropped(service: RunningService, at_least: float) -> float | None:
    found = (await metrics(service)).get(DROPPED, 0.0)
    return found if found >= at_least else None


async def test_at_a_redial_a_renewal_that_fails_is_a_failed_attempt_and_one_that_is_denied_the_end(
    start_service: StartService, tmp_path: Path
) -> None:  # 13
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    how = "good"
    asked: list[str] = []

    async def gives(request: web.Request) -> web.Response:
        asked.append(how)
        match how:
            case "slow":
                await asyncio.sleep(30)
            case "500":
                return web.Response(status=500, text="its own secret")
            case "junk":
                return web.Response(text="junk")
        return web.json_response({"token": f"t{len(asked)}"})

    async def listens(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.listen(socket)

    async with HttpServer(gives, "127.0.0.2") as url, Scripted(listens) as server:
        recipe = {"renew": {"http": {"url": url, "values": {"token": "/token"}}, "timeout": 2}}
        kept = (await service.open(f"{server.url}?t=${{token}}", recipe=recipe, reconnect=AGAIN))["id"]
        for socket, how in enumerate(("slow", "500", "junk"), 2):
            before = len(asked)
            server.cut()
            errors = await wait_for(lambda: _failed_twice(service, kept), what="two failed attempts")
            assert errors[0]["errCode"] == 113 and "secret" not in json.dumps(errors)
            assert set(asked[before:]) == {how}
            how = "good"
            await service.events(kept, count=2 * socket - 1)
            assert server.handshakes[-1].query["t"] == f"t{len(asked)}", "nothing is locked"
        handshakes = len(server.handshakes)
        config.write_text('[egress]\ndeny = ["127.0.0.2"]\n')
        await read_again(service)
        server.cut()
        events = await service.events(kept, until="onTerminate")
        assert [event["kind"] for event in events[-3:]] == ["onDisconnect", "onError", "onTerminate"]
        assert events[-2]["event"]["errors"][0]["errCode"] == 106
        assert len(server.handshakes) == handshakes


async def _failed_twice(service: RunningService, connection: int) -> list[dict[str, Any]] | None:
    down = (await service.record(connection))["down"]
    return down["errors"] if down and down["attempt"] >= 3 else None


async def test_what_was_renewed_or_remembered_is_on_the_wire_alone(
    start_service: StartService, tmp_path: Path
) -> None:  # 43
    """Through losses, refusals that say it back, what waits, what is asked, a change, the death of the worker, and the end."""
    config = tmp_path / "mooring.toml"
    (tmp_path / "feed").write_text("canary-secret")
    config.write_text(f'[secrets.feed]\nfrom = "file:{tmp_path}/feed"\nhosts = ["127.0.0.1"]\n')
    service = await start_service("--config", str(config))
    told: list[str] = []
    go_on = asyncio.Event()

    async def gives(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer canary-secret"
        if request.query.get("bad"):
            return web.Response(status=500, text="canary-renewed")
        return web.json_response({"token": "canary-renewed"})

    async def talks(server: Scripted, socket: web.WebSocketResponse) -> None:
        told.append(await server.hear(socket) or "")
        if len(server.sockets) == 2:
            await go_on.wait()  # it is down for as long as the test looks
            await socket.send_json({"no": "canary-renewed canary-literal"})
            await server.listen(socket)
            return
        if len(server.sockets) == 3:
            await socket.close(code=4999, message=b"bye")
            return
        await socket.send_json({"session": "canary-remembered"})
        await socket.send_json({"ok": True})
        while (text := await server.hear(socket, 3600)) is not None:
            if text.startswith('{"ask"'):
                await socket.send_json({"id": json.loads(text)["id"], "hello": 1})

    async with HttpServer(gives) as url, Scripted(talks) as server:
        renew = {
            "http": {"url": url, "headers": {"Authorization": "Bearer ${secret:feed}"}, "values": {"token": "/token"}}
        }
        recipe: dict[str, Any] = {
            "renew": renew,
            "opening": [
                {
                    "send": {"token": "${token}", "password": "canary-literal", "secret": "${secret:feed}", "at": "${session|none}"},
                    "expect": {"/ok": True}, "fail": {"/no": {"exists": True}}, "timeout": 60,
                }
            ],
            "remember": {"session": {"pointer": "/session"}},
            "answers": [{"when": {"/session": {"exists": True}}, "send": "thanks, ${/session}", "hide": True}],
        }  # fmt: skip
        opened = await service.open(
            f"{server.url}?token=${{token}}", recipe=recipe, headers={"X-Token": "${token}", "X-Own": "canary-header"},
            reconnect=AGAIN, whenDown="queue", requests={"id": "/id", "reply": "/id"},
        )  # fmt: skip
        kept = opened["id"]
        shown: list[Any] = [opened]
        assert json.loads(told[0]) == {
            "token": "canary-renewed",
            "password": "canary-literal",
            "secret": "canary-secret",
            "at": "none",
        }
        assert server.heard[0][-1:] == ["thanks, canary-remembered"] or await _hears(
            server, 0, "thanks, canary-remembered"
        )
        headers = {"Content-Type": "application/json"}
        shown.append(
            await service.call("POST", f"/v1/connections/{kept}/requests", 200, data='{"ask": 1}', headers=headers)
        )
        server.cut()  # the second socket is refused by its step, the third closed with the reason, the fourth is ready
        await status_of(service, kept, "Reconnecting")
        shown.append(await service.send(kept, "waits", status=202))
        go_on.set()
        await service.events(kept, "onReconnect")
        assert json.loads(told[3])["at"] == "canary-remembered"
        changed = {"recipe": {**recipe, "renew": {"http": {**renew["http"], "url": f"{url}?bad=1"}}}}
        shown.append(await service.call("PATCH", f"/v1/connections/{kept}", 200, json=changed))
        server.cut()
        shown.append(await wait_for(lambda: _failed_twice(service, kept), what="failed renewals"))
        shown.append(await service.send(kept, "lost with its worker", status=202))
        shown.append(await service.call("PATCH", f"/v1/connections/{kept}", 200, json={"recipe": recipe}))
        os.kill(service.worker_pids()[0], signal.SIGKILL)

        async def again() -> Any:
            record = await service.record(kept)
            return record if record["ready"] else None

        shown.append(await wait_for(again, what="it is back"))
        refused = {**recipe, "opening": [{**recipe["opening"][0], "expect": {"/never": 1}, "fail": {"/ok": True}}]}
        shown.append(await service.open(f"{server.url}?token=${{token}}", recipe=refused, status=502))
        shown.append(await service.call("DELETE", f"/v1/connections/{kept}", 200))
        shown.append(await service.get("/v1/connections"))
        # What the server itself says is a message, and stays one; here it says none of it after the opening.
        shown.append(await service.events(kept, until="onTerminate"))
        async with service.client.get("/metrics") as response:
            shown.append(await response.text())
        assert "canary" not in json.dumps(shown).replace('{\\"no\\": \\"canary-renewed canary-literal\\"}', "")
        assert "canary" not in everything(service)


async def _hears(server: Scripted, socket: int, text: str) -> bool:
    await wait_for(lambda: text in server.heard[socket])
    return True


@rounds(6, 60, "seconds")
async def test_a_worker_that_stood_still_judges_nobody_by_it_and_makes_up_for_no_heartbeat(
    start_service: StartService, tmp_path: Path, seconds: int
) -> None:  # 44
    config = tmp_path / "mooring.toml"
    config.write_text("[supervisor]\nwatchdog_timeout = 300\n")
    service = await start_service("--config", str(config))
    beats: list[float] = []
    loop = asyncio.get_running_loop()

    async def answers(server: Scripted, socket: web.WebSocketResponse) -> None:
        while (text := await server.hear(socket, 3600)) is not None:
            beats.append(loop.time())
            await socket.send_str(f"{text} too")

    async with Scripted(answers) as server:
        clocks = {
            "keepAlive": {"send": "alive", "expect": "alive too", "interval": 1, "timeout": 4},
            "pingInterval": 1,
            "pingTimeout": 4,
        }
        kept = (await service.open(server.url, reconnect=AGAIN, dataTimeout=0, **clocks))["id"]
        await wait_for(lambda: len(beats) >= 2)
        (pid,) = service.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.5)  # what was on its way is here
            before = len(beats)
            await asyncio.sleep(seconds)
            assert len(beats) == before
        finally:
            os.kill(pid, signal.SIGCONT)
        went_on = loop.time()
        await wait_for(lambda: len(beats) >= before + 4, what="heartbeats go on")
        elapsed = loop.time() - went_on
        assert len(beats) - before <= elapsed + 3, "one for all that were due, and then one a second"
        record = await service.record(kept)
        assert (record["status"], record["socket"]) == ("Connected", 1)
        assert [event["kind"] for event in await service.events(kept)] == ["onOpen"]
        assert len(server.handshakes) == 1
