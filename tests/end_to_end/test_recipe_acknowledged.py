"""What was acknowledged is kept: `answers … stored` under kill -9 of worker and service between receipt and commit."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from aiohttp import web

from tests.conftest import ROOT, RunningService, StartService, end_processes, rounds, wait_for
from tests.scripted import Scripted

RECIPE = {
    "answers": [{"when": {"/envelope_id": {"exists": True}}, "send": {"ack": "${/envelope_id}"}, "after": "stored"}]
}


@pytest.mark.timeout(1_800)
@rounds(6, 200)
async def test_each_acknowledged_envelope_is_in_the_journal(start_service: StartService, rounds: int) -> None:
    service = await start_service(
        env={"MOORING_SUPERVISOR_RESTART_BUDGET": "100000", "MOORING_SUPERVISOR_RESTART_DELAY_MAX": "0.2"}
    )
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    acknowledged: set[int] = set()
    number = 0

    async def envelopes(server: Scripted, socket: web.WebSocketResponse) -> None:
        """Send envelope after envelope, in bursts; what was not acknowledged comes again on the next socket."""
        nonlocal number

        async def hear() -> None:
            while (text := await server.hear(socket, 600)) is not None:
                acknowledged.add(json.loads(text)["ack"])

        hearing = asyncio.ensure_future(hear())
        try:
            while not socket.closed and not hearing.done():
                for _ in range(5):
                    number += 1
                    await socket.send_json({"envelope_id": number})
                await asyncio.sleep(0.01)
        except (ConnectionError, RuntimeError):
            pass
        await asyncio.wait({hearing}, timeout=1)
        hearing.cancel()

    async with Scripted(envelopes) as server:
        opened = await service.open(server.url, recipe=RECIPE, reconnect={"minDelay": 0.05, "maxDelay": 0.1})
        for round_number in range(rounds):
            enough = len(acknowledged) + 20

            async def goes_on(enough: int = enough) -> bool:
                return len(acknowledged) >= enough

            await wait_for(goes_on, what=f"answers in round {round_number}")
            await asyncio.sleep(chance.random() * 0.05)
            if chance.random() < 0.5 or round_number % 4 == 3:
                end_processes(service.worker_pids())
                sockets = len(server.sockets)
                await wait_for(lambda: _more(server, sockets), what="another socket")  # noqa: B023
            else:
                await service.restart_after_kill()
        await wait_for(lambda: _ended(service, opened["id"]), what="its worker is back")
        told = set(acknowledged)
        events = await service.events(opened["id"], "onTerminate", timeout_s=60)
        stored = {json.loads(event["event"]["data"])["envelope_id"] for event in events if event["kind"] == "onMessage"}
        assert told and told <= stored, f"{len(told - stored)} of {len(told)} acknowledged envelopes are not there"
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


SERVICE = (["--app-dir", str(ROOT), "--handler", "recorder=tests.end_to_end.user_code:Recorder"], {})
"""Of `shared`."""
REPLY, ENVELOPE, BOTH = {"id": 1}, {"envelope_id": 7}, {"id": 1, "envelope_id": 7}


@pytest.mark.parametrize("handler", [None, {"name": "recorder"}])
@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize(
    "read", [[REPLY, ENVELOPE], [ENVELOPE, REPLY], [BOTH]], ids=["reply first", "last", "it is both"]
)
async def test_an_envelope_beside_a_reply_in_one_read_is_acknowledged(
    shared: RunningService, read: list[dict[str, int]], hide: bool, handler: dict[str, str] | None
) -> None:
    acknowledged: asyncio.Queue[str | None] = asyncio.Queue()

    async def script(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)  # the request
        transport = socket._req.transport  # type: ignore[union-attr]
        assert transport is not None
        texts = [json.dumps(value).encode() for value in read]
        transport.write(b"".join(bytes((0x81, len(text))) + text for text in texts))  # type: ignore[attr-defined]
        while (text := await server.hear(socket, 3600)) is not None:
            acknowledged.put_nowait(text)

    async with Scripted(script) as server:
        requests = {"id": "/id", "reply": "/id", "hide": hide}
        opened = await shared.open(server.url, recipe=RECIPE, requests=requests, handler=handler)
        path = f"/v1/connections/{opened['id']}/requests"
        answer = await shared.call("POST", path, 200, json={})
        assert answer["reply"] in read
        async with asyncio.timeout(60):
            assert json.loads(await acknowledged.get() or "") == {"ack": 7}
        events = await shared.events(opened["id"], count=1 + len(read) - (hide and REPLY in read))
        stored = [json.loads(event["event"]["data"]) for event in events[1:]]
        assert stored == [value for value in read if not (hide and value == REPLY)]


async def _ended(service: RunningService, connection: int) -> bool:
    answer = await service.call("DELETE", f"/v1/connections/{connection}", None)
    return bool(answer["status"] == "Closed")


async def _more(server: Scripted, sockets: int) -> bool:
    return len(server.sockets) > sockets
