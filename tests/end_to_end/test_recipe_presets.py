"""The presets whose servers cannot be had, against what the vendors document that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mooring.connection.shipped import read_preset
from tests.conftest import RunningService, StartService, files_in, wait_for
from tests.scripted import HttpServer, Scripted

KEPT = {"minDelay": 0.05, "maxDelay": 0.1}
CANARY = "canary-2b7e151628ae"


async def opened_twice(service: RunningService, server: Scripted, **options: Any) -> tuple[int, list[dict[str, Any]]]:
    """Open by a preset, cut the connection, and return its id and its events once it is back."""
    record = await service.open(reconnect=KEPT, **{"url": server.url, **options})
    assert record["ready"]
    server.cut()
    await service.events(record["id"], "onReconnect")
    return record["id"], await service.events(record["id"])


def everything(service: RunningService) -> str:
    """Return all that the service has written anywhere."""
    return "\n".join([service.log(), *(content.decode("latin-1") for _, content in files_in(service.state_dir))])


@pytest.fixture
async def with_secrets(start_service: StartService, tmp_path: Path) -> RunningService:
    config = tmp_path / "mooring.toml"
    slack = (read_preset("slack-socket-mode") or b"").decode()
    (tmp_path / "slack.json").write_text(slack)
    config.write_text(
        f'[secrets]\nha = {{from = "env:HA", hosts = ["127.0.0.1"]}}\nfar = {{from = "env:HA", hosts = ["far.test"]}}\n'
        f'[recipes]\nslack = "{tmp_path}/slack.json"\n'
    )
    return await start_service("--config", str(config), env={"HA": CANARY})


async def test_home_assistant(with_secrets: RunningService) -> None:
    """https://developers.home-assistant.io/docs/api/websocket"""

    async def home(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_json({"type": "auth_required", "ha_version": "2024.12.0"})
        auth = json.loads(await server.hear(socket) or "")
        if auth != {"type": "auth", "access_token": CANARY}:
            await socket.send_json({"type": "auth_invalid", "message": "Invalid access token or password"})
            return
        await socket.send_json({"type": "auth_ok", "ha_version": "2024.12.0"})
        while (text := await server.hear(socket, 60)) is not None:
            asked = json.loads(text)
            if asked["type"] == "subscribe_events":
                await socket.send_json({"id": asked["id"], "type": "result", "success": True, "result": None})
                await socket.send_json(
                    {"id": asked["id"], "type": "event", "event": {"event_type": asked["event_type"]}}
                )
            elif asked["type"] == "ping":
                await socket.send_json({"id": asked["id"], "type": "pong"})
            else:
                await socket.send_json(
                    {"id": asked["id"], "type": "result", "success": True, "result": {"state": "on"}}
                )

    service = with_secrets
    async with Scripted(home) as server:
        values = {"token": "${secret:ha}", "events": "state_changed"}
        recipe = {"preset": "home-assistant", "values": values}
        connection, events = await opened_twice(service, server, recipe=recipe)
        assert [json.loads(text)["type"] for text in server.heard[0]] == ["auth", "subscribe_events"]
        assert [json.loads(heard[1])["id"] for heard in server.heard] == [1, 2], "ids go up, as it wants them"
        assert any('"event_type": "state_changed"' in str(event["event"].get("data")) for event in events)
        reply = await service.call("POST", f"/v1/connections/{connection}/requests", json={"type": "get_states"})
        assert "on" in json.dumps(reply["reply"])
        assert CANARY not in everything(service) + json.dumps([await service.record(connection), events])

        problem = await service.open(
            server.url, recipe={"preset": "home-assistant", "values": {**values, "token": "no"}}, status=502
        )
        assert problem["type"].endswith("opening-failed") and "refused" in problem["detail"]
        problem = await service.open(server.url, status=403, recipe={
            "preset": "home-assistant", "values": {**values, "token": "${secret:far}"}})  # fmt: skip
        assert problem["type"].endswith("secret-not-allowed")
        problem = await service.open(server.url, status=422, recipe={
            "preset": "home-assistant", "values": {**values, "token": "${secret:nobody}"}})  # fmt: skip
        assert "nobody" in problem["detail"]


async def test_slack_socket_mode(with_secrets: RunningService, tmp_path: Path) -> None:
    """https://api.slack.com/apis/socket-mode, with `apps.connections.open` at another address."""
    handed_out = 0

    async def gives(request: web.Request) -> web.Response:
        nonlocal handed_out
        assert request.method == "POST" and request.headers["Authorization"] == f"Bearer {CANARY}"
        handed_out += 1
        return web.json_response({"ok": True, "url": f"{server.url}link/?ticket={CANARY}-{handed_out}"})

    async def slack(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_json({"type": "hello", "num_connections": 1})
        await socket.send_json({"envelope_id": f"e{len(server.sockets)}", "type": "events_api", "payload": {}})
        await server.hear(socket)
        if len(server.sockets) == 1:
            await socket.send_json({"type": "disconnect", "reason": "refresh_requested"})
        await server.listen(socket)

    service = with_secrets
    async with HttpServer(gives) as url, Scripted(slack) as server:
        preset = (read_preset("slack-socket-mode") or b"").decode()
        (tmp_path / "slack.json").write_text(preset.replace("https://slack.com/api/apps.connections.open", url))
        record = await service.open(
            "${url}", recipe={"preset": "slack", "values": {"token": "${secret:ha}"}}, reconnect={"minDelay": 5}
        )
        events = await service.events(record["id"], "onReconnect")
        assert record["url"] == "${url}" and record["recipe"]["preset"] == "slack"
        assert [request.query["ticket"] for request in server.handshakes] == [f"{CANARY}-1", f"{CANARY}-2"]
        lost = next(event["event"] for event in events if event["kind"] == "onDisconnect")
        assert lost["cause"] == "asked", "at once, though the delay is five seconds"

        async def acknowledged() -> bool:
            return [heard[:1] for heard in server.heard] == [['{"envelope_id":"e1"}'], ['{"envelope_id":"e2"}']]

        await wait_for(acknowledged, what="both envelopes are acknowledged")
        await server.sockets[-1].send_json({"type": "disconnect", "reason": "link_disabled"})
        events = await service.events(record["id"], "onTerminate")
        assert events[-2]["event"]["errors"][0]["errCode"] == 210
        assert CANARY not in everything(service) + json.dumps([await service.record(record["id"]), events])


async def test_phoenix_channels(service: RunningService) -> None:
    """https://hexdocs.pm/phoenix/writing_a_channels_client.html, version 2 of the protocol"""

    async def phoenix(server: Scripted, socket: web.WebSocketResponse) -> None:
        while (text := await server.hear(socket, 60)) is not None:
            join_ref, ref, topic, event, payload = json.loads(text)
            status = "error" if payload.get("token") == "wrong" else "ok"
            await socket.send_json([join_ref, ref, topic, "phx_reply", {"status": status, "response": {}}])
            if event == "phx_join":
                await socket.send_json([join_ref, None, topic, "new_msg", {"body": "hello"}])
            elif event == "crash":
                await socket.send_json([join_ref, None, topic, "phx_error", {}])

    async with Scripted(phoenix) as server:
        recipe = {"preset": "phoenix", "values": {"topic": "room:lobby", "payload": {"token": "right"}}}
        connection, _ = await opened_twice(service, server, recipe=recipe)
        joins = [json.loads(heard[0]) for heard in server.heard]
        assert [join[:4] for join in joins] == [
            ["join-1", "join-1", "room:lobby", "phx_join"], ["join-2", "join-2", "room:lobby", "phx_join"],
        ]  # fmt: skip
        reply = await service.call(
            "POST",
            f"/v1/connections/{connection}/requests",
            json=["join-2", None, "room:lobby", "shout", {"body": "x"}],
        )
        assert "phx_reply" in json.dumps(reply["reply"])
        await service.send(connection, json.dumps([None, None, "room:lobby", "crash", {}]))
        await wait_for(lambda: _third(server), what="it joins again after phx_error")
        recipe["values"]["payload"] = {"token": "wrong"}
        await service.open(server.url, recipe=recipe, status=502)


async def _third(server: Scripted) -> bool:
    return len(server.heard) >= 3 and bool(server.heard[2])


async def test_engine_io_that_goes_silent_is_dead(service: RunningService) -> None:
    """https://socket.io/docs/v4/engine-io-protocol/: the server pings, and who does not hear it for long closes."""

    async def engine(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_str('0{"sid":"x","upgrades":[],"pingInterval":300,"pingTimeout":200,"maxPayload":1000000}')
        assert await server.hear(socket) == "40"
        await socket.send_str('40{"sid":"y"}')
        await socket.send_str("2")
        await server.listen(socket)

    async with Scripted(engine) as server:
        recipe = {"preset": "engine.io", "values": {"connect": ""}}
        opened = await service.open(server.url, recipe=recipe, reconnect=KEPT, keepAlive={"within": 0.5})
        events = await service.events(opened["id"], "onReconnect")
        lost = next(event["event"] for event in events if event["kind"] == "onDisconnect")
        assert (lost["cause"], lost["errors"][0]["errCode"]) == ("keepAlive", 207)
        assert server.heard[0] == ["40", "3"]
