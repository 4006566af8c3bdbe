"""What a recipe may say, word by word, through everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.conftest import ROOT, RunningService, wait_for
from tests.scripted import Scripted
from tests.servers import EchoServer

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


async def kinds(service: RunningService, connection: int, count: int) -> list[str]:
    return [event["kind"] for event in await service.events(connection, count=count)]


async def messages(service: RunningService, connection: int, count: int) -> list[str]:
    async def look() -> list[str] | None:
        events = await service.events(connection)
        found = [event["event"]["data"] for event in events if event["kind"] == "onMessage"]
        return found if len(found) >= count else None

    return await wait_for(look, what=f"{count} messages of {connection}")


async def test_what_is_remembered_is_used_by_the_next_socket_until_it_is_forgotten(shared: RunningService) -> None:
    async def gives_session(server: Scripted, socket: web.WebSocketResponse) -> None:
        first = await server.hear(socket)
        if first == "identify":
            await socket.send_json({"op": "hello", "session": "s-canary"})
        else:
            await socket.send_json({"op": "resumed"})
        await server.listen(socket)

    recipe = {
        "opening": [
            {"send": "identify", "unless": "session", "expect": {"/op": "hello"}},
            {"send": "resume ${session}", "when": "session", "expect": {"/op": {"in": ["resumed", "hello"]}}},
        ],
        "remember": {"session": {"pointer": "/session"}},
        "forget": [{"name": "session", "when": {"/op": "invalid"}}],
        "resumedWhen": {"/op": "resumed"},
    }
    # The first step remembers what the second one asks for: it is not to run on the same socket.
    recipe["opening"] = [
        {"send": "identify", "unless": "session", "expect": {"/op": "hello"}},
        {"send": "resume ${session}", "when": "session"},
    ]
    async with Scripted(gives_session) as server:
        opened = await shared.open(server.url, recipe=recipe, reconnect=AGAIN)
        server.cut()
        events = await shared.events(opened["id"], "onReconnect")
        assert server.heard == [["identify", "resume s-canary"], ["resume s-canary"]]
        back = next(event["event"] for event in events if event["kind"] == "onReconnect")
        assert (back["resumed"], back["lost"]) == (False, None), "it was ready before the server had said so"
        await server.sockets[-1].send_json({"op": "invalid"})
        server.sockets[-1]._req.transport.abort() if False else await server.sockets[-1].close()
        await wait_for(lambda: _socket(shared, opened["id"], 3), 60, "the third socket")
        assert server.heard[2] == ["identify", "resume s-canary"]
        assert "s-canary" not in json.dumps(await shared.record(opened["id"]))


async def _socket(service: RunningService, connection: int, number: int) -> dict[str, Any] | None:
    record = await service.record(connection)
    return record if record["socket"] == number and record["ready"] else None


async def test_the_peer_asks_for_another_socket_at_another_address(shared: RunningService) -> None:
    async def welcomes(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.listen(socket)

    async with Scripted(welcomes) as elsewhere, Scripted(welcomes) as server:
        recipe = {"reconnectWhen": [{"when": {"/type": "move"}, "urlFrom": "/to", "delay": "none"}]}
        opened = await shared.open(server.url, recipe=recipe, reconnect={**AGAIN, "minDelay": 5, "maxDelay": 5})
        await server.sockets[0].send_json({"type": "move", "to": elsewhere.url})
        events = await shared.events(opened["id"], "onReconnect")
        lost = next(event["event"] for event in events if event["kind"] == "onDisconnect")
        assert (lost["cause"], lost["code"]) == ("asked", 1000)
        assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onDisconnect", "onReconnect"]
        assert len(server.handshakes) == len(elsewhere.handshakes) == 1
        await wait_for(lambda: server.sockets[0].close_code == 1000)


async def test_a_message_may_be_the_end(shared: RunningService) -> None:
    async with Scripted(listens) as server:
        for kept in (False, AGAIN):
            recipe = {"stopWhen": [{"/code": 1}, {"/type": "link_disabled"}]}
            opened = await shared.open(server.url, recipe=recipe, reconnect=kept)
            await server.sockets[-1].send_json({"type": "link_disabled"})
            events = await shared.events(opened["id"], "onTerminate")
            assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onError", "onTerminate"]
            error = events[2]["event"]["errors"][0]
            assert error["errCode"] == 210 and "/recipe/stopWhen/1" in error["message"]
            assert events[3]["event"]["code"] == 1000


async def test_what_was_missed_comes_before_what_is_live(shared: RunningService) -> None:
    async def counts(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_str(f"live {len(server.sockets)}")
        await server.listen(socket)

    async with Scripted(counts) as server:
        recipe = {"catchUp": {"function": "fetch_missed", "params": {"count": 2}}}
        opened = await shared.open(server.url, recipe=recipe, reconnect=AGAIN)
        await messages(shared, opened["id"], 1)
        server.cut()
        assert await messages(shared, opened["id"], 4) == ["live 1", "missed 0", "missed 1", "live 2"]
        events = await shared.events(opened["id"])
        assert [event["event"].get("filled", False) for event in events if event["kind"] == "onMessage"] == [
            False, True, True, False,
        ]  # fmt: skip
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert (await shared.record(opened["id"]))["stats"]["messagesFilled"] == 2
        calls = (await shared.call("POST", "/v1/workers/main/calls", json={"function": "get_calls"}))["result"]
        told = next(call for call in reversed(calls) if isinstance(call, dict))
        assert told["type"] == "reconnect" and told["socket"] == 2


async def test_what_cannot_be_fetched_is_an_event_and_live_goes_on(shared: RunningService) -> None:
    async def counts(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_str(f"live {len(server.sockets)}")
        await server.listen(socket)

    async with Scripted(counts) as server:
        for function, exception, timeout_s in (("raises", "TypeError", 60), ("fetch_for_ever", "TimeoutError", 0.2)):
            recipe = {"catchUp": {"function": function, "timeout": timeout_s}}
            before = len(server.sockets)
            opened = await shared.open(server.url, recipe=recipe, reconnect=AGAIN, worker=f"misses-{exception}")
            await messages(shared, opened["id"], 1)
            server.cut()
            found = await messages(shared, opened["id"], 2)
            assert found == [f"live {before + 1}", f"live {before + 2}"]
            failed = [event["event"] for event in await shared.events(opened["id"]) if event["kind"] == "callbackError"]
            assert [(one["callback"], one["exception"]) for one in failed] == [("catchUp", exception)]


async def test_a_heartbeat_is_answered_hidden_and_not_answered_the_end(shared: RunningService) -> None:
    answers = True

    async def pongs(server: Scripted, socket: web.WebSocketResponse) -> None:
        await socket.send_str("heartbeat")
        await socket.send_str("news")
        while (text := await server.hear(socket, 3600)) is not None:
            if answers:
                await socket.send_json({"type": "pong", "id": json.loads(text)["id"]})

    async with Scripted(pongs) as server:
        keep_alive = {
            "send": {"type": "ping", "id": "${nextId}"}, "expect": {"/type": "pong"}, "interval": 1, "timeout": 4,
            "hide": ["heartbeat"],
        }  # fmt: skip
        opened = await shared.open(server.url, keepAlive=keep_alive, reconnect=AGAIN)
        assert opened["keepAlive"]["interval"] == 1

        async def beaten() -> dict[str, Any] | None:
            record = await shared.record(opened["id"])
            return record if record["stats"]["keepAlives"] >= 3 else None

        record = await wait_for(beaten, what="two heartbeats")
        assert record["stats"]["messagesIn"] == 1 and record["stats"]["messagesOut"] == 0
        beats = [json.loads(text)["id"] for text in server.heard[0]]
        assert beats == list(range(1, max(2, len(beats)) + 1)), "there may be a third one already"
        answers = False
        events = await shared.events(opened["id"], "onDisconnect")
        assert [event["kind"] for event in events[:3]] == ["onOpen", "onMessage", "onDisconnect"]
        lost = events[2]["event"]
        assert (lost["cause"], lost["code"], lost["errors"][0]["errCode"]) == ("keepAlive", 1006, 207)
        await wait_for(lambda: server.sockets[0].close_code == 1001)


async def test_a_feed_that_is_silent_is_dialled_anew_or_told_or_ended(shared: RunningService) -> None:
    async def pings(server: Scripted, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.ping()
            await socket.send_str("hb")
            await asyncio.sleep(0.05)

    options: dict[str, Any] = {"keepAlive": {"hide": ["hb"]}, "dataTimeout": 0.3}
    async with Scripted(pings) as server:
        opened = await shared.open(server.url, reconnect=AGAIN, **options)
        events = await shared.events(opened["id"], "onReconnect")
        lost = events[1]["event"]
        assert (lost["cause"], lost["errors"][0]["errCode"]) == ("silence", 208)
        await shared.call("DELETE", f"/v1/connections/{opened['id']}")

        told = await shared.open(server.url, **options, whenSilent="report")
        events = await shared.events(told["id"], "onSilence")
        assert events[-1]["event"]["lastMessageAt"] is None and events[-1]["event"]["since"] >= told["openedAt"][:19]
        await server.sockets[-1].send_str("a word")
        assert await kinds(shared, told["id"], 4) == ["onOpen", "onSilence", "onMessage", "onSilence"]
        await shared.call("DELETE", f"/v1/connections/{told['id']}")

        ended = await shared.open(server.url, **options)
        events = await shared.events(ended["id"], "onTerminate")
        assert events[-2]["event"]["errors"][0]["errCode"] == 208 and events[-1]["event"]["code"] == 1006


async def test_answers_go_out_by_themselves_and_after_the_journal_has_it(
    shared: RunningService, echo: EchoServer
) -> None:
    async def envelopes(server: Scripted, socket: web.WebSocketResponse) -> None:
        for number in range(200):
            await socket.send_json({"envelope_id": f"e{number}", "n": number})
        await server.listen(socket)

    recipe = {
        "answers": [
            {"when": {"/envelope_id": {"exists": True}}, "send": {"envelope_id": "${/envelope_id}"}, "after": "stored"}
        ]
    }
    async with Scripted(envelopes) as server:
        opened = await shared.open(server.url, recipe=recipe)

        async def acked() -> bool:
            return len(server.heard[0]) == 200

        await wait_for(acked, what="200 answers")
        assert [json.loads(text)["envelope_id"] for text in server.heard[0]] == [f"e{n}" for n in range(200)]
        assert len(await messages(shared, opened["id"], 200)) == 200


async def test_the_clocks_and_the_recipe_may_be_changed_in_life(shared: RunningService) -> None:
    async with Scripted(listens) as server:
        opened = await shared.open(server.url, reconnect=AGAIN)
        path = f"/v1/connections/{opened['id']}"
        changed = await shared.call(
            "PATCH", path, json={"dataTimeout": 0.2, "recipe": {"opening": [{"send": "hello"}]}}
        )
        assert changed["dataTimeout"] == 0.2
        await shared.events(opened["id"], "onReconnect")
        assert server.heard[:2] == [[], ["hello"]]
        await shared.call("PATCH", path, json={"dataTimeout": 0, "keepAlive": {"send": "beat", "interval": 1}})

        async def beaten() -> bool:
            return "beat" in server.heard[-1]

        await wait_for(beaten, what="a heartbeat")
        await shared.call("PATCH", path, status=422, json={"keepAlive": {"interval": 1}})
