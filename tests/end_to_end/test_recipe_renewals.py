"""Values that are fetched before each attempt (`renew`), through everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import ROOT, RunningService, wait_for
from tests.scripted import HttpServer, Scripted

CODE = "tests.end_to_end.recipe_code"
SERVICE = (
    [
        "--app-dir", str(ROOT), "--handler", f"Renews={CODE}:Renews",
        *(part for name in ("get_calls", "give_token", "give_token_later", "raises", "give_nonsense", "fetch_missed", "fetch_for_ever")
          for part in ("--function", f"{name}={CODE}:{name}")),
    ],
    {},
)  # fmt: skip
AGAIN = {"minDelay": 0.05, "maxDelay": 0.1}


async def listens(server: Scripted, socket: web.WebSocketResponse) -> None:
    await server.listen(socket)


async def test_a_function_gives_values_before_each_attempt(shared: RunningService) -> None:
    async with Scripted(listens) as server:
        opened = await shared.open(
            f"{server.url}?token=${{token}}",
            headers={"Authorization": "Bearer ${token}", "Cookie": "socket=${socket}"},
            recipe={"renew": {"function": "give_token", "params": {"prefix": "k canary"}}},
            reconnect=AGAIN,
        )
        server.cut()
        await shared.events(opened["id"], "onReconnect")
        for number, request in enumerate(server.handshakes, 1):
            token = request.query["token"]
            assert token.startswith("k canary-")
            assert request.headers["Authorization"] == f"Bearer {token}"
            assert request.headers["Cookie"] == f"socket={number}"
        assert server.handshakes[0].query["token"] != server.handshakes[1].query["token"]
        record = await shared.record(opened["id"])
        assert "canary-" not in json.dumps(record) and record["url"] == f"{server.url}?token=${{token}}"


async def test_a_handler_may_renew_by_itself(shared: RunningService) -> None:
    async def welcomes(server: Scripted, socket: web.WebSocketResponse) -> None:
        text = await server.hear(socket)
        await socket.send_str(f"welcome {text}")
        await server.listen(socket)

    async with Scripted(welcomes) as server:
        opened = await shared.open(server.url, handler={"name": "Renews"}, worker="renews")
        assert opened["status"] == "Connected"
        assert server.heard[0] == ["login own-1"]


@pytest.mark.parametrize(
    ("function", "says"),
    [("raises", "the vault is closed"), ("give_nonsense", "must return an object")],
)
async def test_a_renewal_that_fails_is_a_failed_attempt(shared: RunningService, function: str, says: str) -> None:
    async with Scripted(listens) as server:
        recipe = {"renew": {"function": function}, "opening": [{"send": "${token}"}]}
        problem = await shared.open(server.url, recipe=recipe, status=502)
        assert problem["errors"][0]["errCode"] == 113 and says in problem["errors"][0]["message"]
        assert not server.handshakes
        going_on = await shared.open(server.url, recipe=recipe, reconnect={**AGAIN, "first": "retry"}, status=202)
        record = await wait_for(lambda: _with_attempts(shared, going_on["id"], 3), what="further attempts")
        assert record["down"]["errors"][0]["errCode"] == 113
        await shared.call("DELETE", f"/v1/connections/{going_on['id']}")


async def _with_attempts(service: RunningService, connection: int, count: int) -> dict[str, Any] | None:
    record = await service.record(connection)
    return record if record["down"] and record["down"]["attempt"] >= count else None


async def test_a_token_comes_by_http_and_is_renewed_once_when_it_is_refused(shared: RunningService) -> None:
    tokens: list[str] = []

    async def gives(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer app-canary"
        assert await request.json() == {"grant": "all"}
        tokens.append(f"t{len(tokens)}-canary")
        return web.json_response({"data": {"token": tokens[-1]}})

    async with HttpServer(gives) as url, Scripted(listens) as server:
        recipe = {
            "renew": {
                "http": {
                    "url": url, "method": "POST", "headers": {"Authorization": "Bearer app-canary"}, "body": {"grant": "all"},
                    "values": {"token": "/data/token"},
                },
                "reuseFor": 3600,
            }
        }  # fmt: skip
        opened = await shared.open(f"{server.url}?t=${{token}}", recipe=recipe, reconnect={**AGAIN, "minUptime": 0})
        assert opened["recipe"]["renew"]["http"]["headers"] == {"Authorization": "***"}
        server.refuse = [401]
        server.cut()
        await shared.events(opened["id"], "onReconnect")
        assert [request.query["t"] for request in server.handshakes] == ["t0-canary", "t0-canary", "t1-canary"]
        server.refuse = [401, 401]
        server.cut()
        events = await shared.events(opened["id"], "onTerminate")
        assert events[-2]["event"]["errors"][0]["errCode"] == 107
        assert len(server.handshakes) == 5
        assert "canary" not in json.dumps([await shared.record(opened["id"]), events])


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500),
        web.Response(text="junk"),
        web.json_response({"data": {}}),
        web.json_response([]),
        web.Response(text='"' + "x" * 70_000 + '"'),
    ],
    ids=["500", "junk", "no value", "another shape", "too long"],
)
async def test_an_http_renewal_that_is_no_use_is_a_failed_attempt(shared: RunningService, answer: web.Response) -> None:
    async def gives(request: web.Request) -> web.Response:
        return web.Response(status=answer.status, body=answer.body)

    async with HttpServer(gives) as url, Scripted(listens) as server:
        recipe = {"renew": {"http": {"url": url, "values": {"token": "/data/token"}}}}
        problem = await shared.open(server.url, recipe=recipe, status=502)
        assert problem["errors"][0]["errCode"] == 113


async def test_an_http_renewal_has_its_time_and_obeys_the_egress_policy(shared: RunningService) -> None:
    async def waits(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with HttpServer(waits) as url, Scripted(listens) as server:
        recipe: dict[str, Any] = {"renew": {"http": {"url": url, "values": {"token": "/t"}}, "timeout": 0.2}}
        problem = await shared.open(server.url, recipe=recipe, status=502)
        assert problem["errors"][0]["errCode"] == 113
        recipe["renew"]["http"]["url"] = "http://169.254.169.254/latest"
        problem = await shared.open(server.url, recipe=recipe, status=403)
        assert problem["type"].endswith("address-refused") and problem["errors"][0]["errCode"] == 106
