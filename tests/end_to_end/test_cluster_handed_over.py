"""A request on its way to a node while what it is about changes hands: the way keeps that one message until another node has the worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster_kit.nodes import running_engine
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.services import FOUND_S, PERSIST, Nodes, kill, opened_at, stop_whole, until_told
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

TEXT = "once"
KEY = {"Content-Type": "text/plain", "Idempotency-Key": "the-key-of-it"}
# By what has become of the node that is asked: what the asker is told. All of them may be a 504 where a machine takes 16 s for a verdict,
# and what is done is told as done at a node where it takes longer than two seconds until all nodes know.
TOLD = {
    "gone": {"503 node-unreachable"},
    "back": {"200 cluster", "200 node"},
    "cut off": {"503 engine-down"},
    "frozen": {
        "503 engine-down",
        "200 cluster",
        "200 node",
    },  # by whether it has read the log when it reads the request
}


async def send(service: RunningService, connection: int) -> str:
    """Send the text under its key; return what is told."""
    path = f"/v1/connections/{connection}/messages"
    async with service.client.post(path, data=TEXT, headers=KEY) as response:
        told = await response.json()
        kind = told["type"].rpartition(":")[2] if response.status >= 400 else response.headers["Mooring-Committed"]
        return f"{response.status} {kind}"


async def done_everywhere(service: RunningService, connection: int) -> None:
    """Send the text under its key, which is done: told so at once, and as known to all nodes as soon as they are."""

    async def is_told() -> bool:
        told = await send(service, connection)
        assert told in ("200 cluster", "200 node"), told
        return told == "200 cluster"

    await wait_for(is_told, FOUND_S)


async def new_holder(service: RunningService, connection: int) -> str:
    """Wait until another node than `a` has a connection open; return which."""

    async def is_open() -> Any:
        record = await service.get(f"/v1/connections/{connection}")
        return record["node"] if record["node"] != "a" and record["status"] == "Connected" else None

    node: str = await wait_for(is_open, FOUND_S)
    await opened_at(service, connection, node)
    return node


@pytest.mark.parametrize(
    "old", ["cut off", *(pytest.param(old, marks=pytest.mark.long) for old in ("gone", "back", "frozen"))]
)
async def test_a_request_that_comes_to_a_node_whose_worker_is_another_ones_by_then_is_done_once_at_most(
    nodes: Nodes, ways: Callable[[], Proxies], old: str
) -> None:
    of_a, of_c = ways(), ways()
    (a,) = await nodes.begin("a", engine=of_a.urls)
    (b,) = await nodes.begin("b")
    (c,) = await nodes.begin("c", engine=of_c.urls)
    subject = f"mooring.{nodes.cluster}.cmd.a"
    async with EchoServer() as echo, contextlib.AsyncExitStack() as ends:
        kept = (await a.open(echo.url, worker="desk", **PERSIST))["id"]
        assert (await c.get(f"/v1/connections/{kept}"))["node"] == "a"
        await b.get(f"/v1/connections/{kept}")
        of_c.keep(b"/messages")
        asking = asyncio.create_task(send(c, kept))
        await wait_for(lambda: of_c.sprung, FOUND_S)
        frozen: list[int] = []
        if old == "gone":
            await kill(a)
        elif old == "cut off":
            of_a.pass_commands()
        elif old == "frozen":
            frozen = stop_whole(a)
        else:
            of_a.hold()
        holder = await new_holder(b, kept)
        assert (await b.get("/v1/workers/desk"))["node"] == holder
        if old == "back":
            of_a.cut()
            of_a.pass_on()
            await until_told(b, "nodeReturned", "a")
            await wait_for(a.is_ready, FOUND_S)
        arrived = asyncio.Event()
        if old == "frozen":  # so that it is there when the node wakes

            async def note(_: Any) -> None:
                arrived.set()

            engine = await ends.enter_async_context(running_engine(nodes.servers.urls))
            await engine.serve(subject, note)
            await engine.ask("$JS.API.INFO")  # behind it the server knows of that
        of_c.release()
        if old == "frozen":
            await asyncio.wait_for(arrived.wait(), FOUND_S)
            for pid in reversed(frozen):
                os.kill(pid, signal.SIGCONT)
        told = await asyncio.wait_for(asking, FOUND_S)
        print(old, told)
        assert told in TOLD[old] | {"504 node-silent"}
        if old == "cut off":
            of_a.cut()
            of_a.pass_on()

        again: list[str] = []

        async def is_done() -> bool:
            again.append(await send(c, kept))
            return again[-1] == "200 cluster"

        try:
            await wait_for(is_done, FOUND_S, "repeated it reaches the new holder")
        finally:
            print("repeated:", *dict.fromkeys(again))
        await done_everywhere(c, kept)
        received = [text for peer in echo.peers for text in peer.received]
        assert received == [TEXT], "once, whoever was asked"
        if old != "gone":
            await until_told(b, "nodeReturned", "a")
            await wait_for(a.is_ready, FOUND_S)
            await done_everywhere(a, kept)
            assert [text for peer in echo.peers for text in peer.received] == [TEXT]
    await nodes.check(given_up="a")
