"""Protocols without code against real servers of others: opened, subscribed, cut, opened again, by a preset alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import RunningService, wait_for
from tests.real_servers import Ganache, GraphqlWs, NodeServer, SocketIo

KEPT = {"minDelay": 0.1, "maxDelay": 0.5}


async def comes(
    service: RunningService, connection: int, socket: int, meant: Callable[[str], bool], count: int = 3
) -> list[str]:
    """Wait until `count` messages that are `meant` have come over socket number `socket`, and return them."""

    async def look() -> list[str] | None:
        events = await service.events(connection)
        at, found = 0, []
        for event in events:
            if event["kind"] in ("onOpen", "onReconnect"):
                at += 1
            elif event["kind"] == "onMessage" and at == socket and meant(event["event"]["data"]):
                found.append(event["event"]["data"])
        return found if len(found) >= count else None

    return await wait_for(look, what=f"{count} messages over socket {socket}")


async def cut_and_come_back(
    service: RunningService, server: NodeServer, opened: dict[str, Any], meant: Callable[[str], bool]
) -> None:
    """Hold what was opened to its promise: messages come, the server dies and returns, messages come again."""
    assert (opened["status"], opened["ready"], opened["socket"]) == ("Connected", True, 1)
    await comes(service, opened["id"], 1, meant)
    await server.stop()
    await service.events(opened["id"], "onDisconnect")
    await server.start()
    await comes(service, opened["id"], 2, meant)
    kinds = [event["kind"] for event in await service.events(opened["id"]) if event["kind"] != "onMessage"]
    assert kinds == ["onOpen", "onDisconnect", "onReconnect"]


async def test_graphql_subscriptions(service: RunningService) -> None:
    async with GraphqlWs() as server:
        recipe = {
            "preset": "graphql-transport-ws",
            "values": {"payload": {"token": "right"}, "subscription": {"query": "subscription { count }"}},
        }
        opened = await service.open(server.url, recipe=recipe, reconnect=KEPT, dataTimeout=30)
        assert opened["protocol"] == "graphql-transport-ws"
        assert opened["recipe"] == {"preset": "graphql-transport-ws", "values": {
            "payload": {"token": "***"}, "subscription": {"query": "subscription { count }"}}}  # fmt: skip
        assert 4400 in opened["reconnect"]["stopCodes"]
        await cut_and_come_back(service, server, opened, lambda text: json.loads(text)["type"] == "next")

        recipe["values"]["payload"] = {"token": "wrong"}
        problem = await service.open(server.url, recipe=recipe, reconnect=KEPT, status=502)
        assert problem["type"].endswith("opening-failed"), problem
        assert (await service.record(problem["connection"]))["terminate"]["code"] == 4403


async def test_socket_io_events(service: RunningService) -> None:
    async with SocketIo() as server:
        recipe = {"preset": "engine.io", "values": {"connect": '{"token":"right"}'}}
        opened = await service.open(server.url, recipe=recipe, reconnect=KEPT)
        await comes(service, opened["id"], 1, lambda text: text.startswith('42["greeting"'), 1)
        await service.send(opened["id"], '42["say","hello"]')
        await comes(service, opened["id"], 1, lambda text: text == '42["said","hello"]', 1)

        async def beaten() -> bool:
            return bool((await service.record(opened["id"]))["stats"]["keepAlives"] >= 5)

        await wait_for(beaten, what="heartbeats of the server, answered and hidden")
        await server.stop()
        await service.events(opened["id"], "onDisconnect")
        await server.start()
        await comes(service, opened["id"], 2, lambda text: text.startswith('42["greeting"'), 1)
        events = await service.events(opened["id"])
        assert not [event for event in events if event["event"].get("data") in ("2", "3")]

        recipe["values"]["connect"] = '{"token":"wrong"}'
        problem = await service.open(server.url, recipe=recipe, status=502)
        assert "refused" in problem["detail"]


async def test_eth_subscribe_by_jsonrpc(service: RunningService) -> None:
    async with Ganache() as server:
        recipe = {"preset": "jsonrpc", "values": {"method": "eth_subscribe", "params": ["newHeads"]}}
        opened = await service.open(server.url, recipe=recipe, reconnect=KEPT)
        await cut_and_come_back(service, server, opened, lambda text: '"eth_subscription"' in text)
        reply = await service.call(
            "POST", f"/v1/connections/{opened['id']}/requests", json={"jsonrpc": "2.0", "method": "eth_blockNumber", "params": []}
        )  # fmt: skip
        assert (
            int(
                json.loads(reply["reply"])["result"] if isinstance(reply["reply"], str) else reply["reply"]["result"],
                16,
            )
            >= 0
        )


@pytest.mark.parametrize("preset", ["no-such", "graphql"])
async def test_a_preset_that_is_none_is_told_which_there_are(service: RunningService, preset: str) -> None:
    problem = await service.call("POST", "/v1/connections", 422, json={"url": "ws://127.0.0.1:1/", "recipe": preset})
    assert "graphql-transport-ws" in problem["errors"][0]["detail"]
