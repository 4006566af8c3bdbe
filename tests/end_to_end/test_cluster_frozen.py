"""A node that stands still for longer than others wait for it, with the design's own times: what it does once it wakes, and what of it comes into the log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest
from aiohttp import web

from tests.cluster_kit.services import (
    FOUND_S,
    PERSIST,
    Nodes,
    all_events,
    opened_at,
    stop_whole,
    until_told,
)
from tests.conftest import ROOT, wait_for
from tests.end_to_end.with_user_code import open_with
from tests.servers import _Listening

DEAD_AFTER_S = 15  # the default of `[cluster]`
FROZEN_S = 25.0
PAUSE_S = 0.25  # so that what this side must read at the end takes no time that would count


class Talk:
    """One socket: what was said on it, and when the other side last did anything (the loop's seconds)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = self.answers = 0
        self.acted_at = 0.0
        self.gone = asyncio.Event()


class Talking(_Listening):
    """Says ``SOCKET:NUMBER`` on each socket again and again, which a handler answers."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        loop, talk = asyncio.get_running_loop(), Talk(len(self.talks))
        self.talks.append(talk)
        saying = asyncio.create_task(self._say(websocket, talk))
        try:
            async for _ in websocket:
                talk.answers += 1
                talk.acted_at = loop.time()
        finally:
            talk.acted_at = loop.time()
            talk.gone.set()
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)
        return websocket

    async def _say(self, websocket: web.WebSocketResponse, talk: Talk) -> None:
        while True:
            talk.sent += 1
            with contextlib.suppress(ConnectionError):
                await websocket.send_str(f"{talk.number}:{talk.sent}")
            await asyncio.sleep(PAUSE_S)


@pytest.mark.long
async def test_a_node_that_was_frozen_for_25_seconds_acts_no_more_and_nothing_of_its_old_life_is_in_the_log(
    nodes: Nodes,
) -> None:
    loop = asyncio.get_running_loop()
    nodes.options = ["--app-dir", str(ROOT), "--handler", "answers=tests.end_to_end.kept_code:Answers"]
    a, b = await nodes.begin("ab", dead_after=DEAD_AFTER_S)
    async with Talking() as server:
        kept = (await open_with(a, server.url, "answers", **PERSIST))["id"]
        plain = (await open_with(a, server.url, "answers"))["id"]
        await wait_for(lambda: all(talk.answers > 3 for talk in server.talks), FOUND_S, "both are answered")
        await b.get(f"/v1/connections/{plain}")
        old = list(server.talks)
        frozen = stop_whole(a)
        frozen_at = loop.time()
        heard = {talk.number: talk.sent for talk in old}  # at most so much was read before
        assert (await opened_at(b, kept, "b"))["worker"] == "main-a"
        print(f"open elsewhere {loop.time() - frozen_at:.1f} s after the freeze")
        lost = await until_told(b, "nodeLost", "a")
        assert lost["silentMs"] >= DEAD_AFTER_S * 1_000
        await asyncio.sleep(frozen_at + FROZEN_S - loop.time())
        assert not any(talk.gone.is_set() for talk in old), "a frozen process holds its sockets"
        answers = sum(talk.answers for talk in old)
        woken_at = loop.time()
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*(talk.gone.wait() for talk in old)), FOUND_S)
        acted_s = max(talk.acted_at for talk in old) - woken_at
        answers = sum(talk.answers for talk in old) - answers
        print(f"the last act of the old life: {acted_s * 1_000:.1f} ms after SIGCONT, behind {answers} answers")
        returned = await until_told(b, "nodeReturned", "a")
        assert returned["life"] == lost["life"]
        assert returned["unreplicated"]["events"], "what it has read and ended since was committed there alone"
        await wait_for(a.is_ready, FOUND_S)
        assert (await b.get(f"/v1/connections/{kept}"))["node"] == "b"
        assert (await b.get(f"/v1/connections/{plain}"))["status"] == "Closed"
        events = await all_events(b)
        for connection in (kept, plain):
            mine = [event for event in events if event.get("connection") == connection]
            assert [event["seq"] for event in mine] == list(range(1, len(mine) + 1))
            said = [event["event"]["data"].split(":") for event in mine if event["kind"] == "onMessage"]
            late = [(talk, number) for talk, number in said if int(number) > heard.get(int(talk), int(number))]
            assert not late, "nothing that the old life has read behind the freeze is in the log"
        assert sum(not talk.gone.is_set() for talk in server.talks) == 1
    await nodes.check(given_up="a")
