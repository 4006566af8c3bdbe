"""Heirs: who takes over what a dead node had, where that cannot be, and what becomes of it when they die, too."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from mooring.events import Kind
from tests.cluster_kit.services import (
    FOUND_S,
    PERSIST,
    Nodes,
    all_events,
    kill,
    opened_at,
    until_open,
    until_status,
    until_told,
)
from tests.conftest import RunningService, rounds, wait_for
from tests.servers import EchoServer

# Of the processes of workers: each waits in its start for as long as the file `held` stands.
HELD_START = """
import os, sys, time
while sys.orig_argv[-2:-1] == ["mooring"] and os.path.exists(os.path.join(os.path.dirname(__file__), "held")):
    time.sleep(0.02)
"""


async def degraded(service: RunningService) -> list[str]:
    """Return what is degraded, whether the service is ready at this moment or not."""
    found: list[str] = (await service.call("GET", "/readyz", None))["degraded"]
    return found


async def nothing_is_degraded(service: RunningService) -> bool:
    return await service.is_ready() and not await degraded(service)


@rounds(1, 6)
async def test_an_heir_that_is_killed_while_it_takes_over_tells_each_end_once(nodes: Nodes, rounds: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    c, *others = await nodes.begin("cab")
    by_name = dict(zip("ab", others, strict=True))
    async with EchoServer() as echo:
        for number in range(rounds):
            first, second = chance.choice(["ab", "ba"])
            dying, heir = by_name[first], by_name[second]
            persisted = [(await dying.open(echo.url, worker=f"w{number}", **PERSIST))["id"] for _ in range(5)]
            plain = [(await dying.open(echo.url, worker=f"w{number}"))["id"] for _ in range(5)]
            await c.get(f"/v1/connections/{plain[-1]}")
            lost = sum(event["kind"] == "nodeLost" for event in await all_events(c))
            await kill(dying)

            async def is_lost(before: int = lost) -> bool:
                page = await c.get("/v1/events?after=start&limit=1000&kind=nodeLost")
                return len(page["events"]) > before

            await wait_for(is_lost, FOUND_S)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            await kill(heir)
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await heir.start()

            async def is_over(persisted: list[int] = persisted, plain: list[int] = plain) -> bool:
                stand = [(await c.get(f"/v1/connections/{one}"))["status"] for one in [*persisted, *plain]]
                return stand == ["Connected"] * 5 + ["Closed"] * 5

            await wait_for(is_over, 2 * FOUND_S)
            await dying.start()
            await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in by_name.values()))
    rows = await nodes.check(given_up="ab")
    assert sum(kind == Kind.onTerminate for _, _, kind, _ in rows) >= 5 * rounds


@pytest.mark.parametrize("killed", ["ab", "abc"])
async def test_who_is_left_or_comes_back_has_what_the_others_had(nodes: Nodes, killed: str) -> None:
    a, b, c = await nodes.begin("abc")
    async with EchoServer() as echo:
        kept = [(await service.open(echo.url, **PERSIST))["id"] for service in (a, b, c)]
        await asyncio.gather(*(c.get(f"/v1/connections/{one}") for one in kept))
        for name in killed:
            await kill(nodes.all[name])
        back = {"ab": [b], "abc": [b, c]}[killed]
        await asyncio.gather(*(service.start() for service in back))
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in back))

        async def are_open() -> bool:
            records = [await c.get(f"/v1/connections/{one}") for one in kept]
            events = [await c.get(f"/v1/connections/{one}/events?after=start&kind=onReconnect") for one in kept[:2]]
            return (
                all(record["status"] == "Connected" and record["node"] in "bc" for record in records)
                and all(page["events"] for page in events)
            )  # fmt: skip

        await wait_for(are_open, 2 * FOUND_S)
        await until_told(c, "nodeLost", "a")
        await until_open(3, echo)
    await nodes.check(given_up="abc")


async def test_an_heir_that_cannot_make_a_connection_tells_it_and_opens_it_once_it_can(nodes: Nodes) -> None:
    (a,) = await nodes.begin("a", "[limits]\nmax_connections = 100\n")
    (b,) = await nodes.begin("b", "[limits]\nmax_connections = 1\n")
    async with EchoServer() as echo:
        own = (await b.open(echo.url, **PERSIST))["id"]  # it stays also where the restart takes longer than the lease
        kept = (await a.open(echo.url, **PERSIST))["id"]
        plain = (await a.open(echo.url))["id"]
        await b.get(f"/v1/connections/{plain}")
        await kill(a)

        async def is_blocked() -> bool:
            reasons = await degraded(b)
            return any(reason.startswith("worker main-a: limits.max_connections") for reason in reasons)

        await wait_for(is_blocked, FOUND_S)
        await b.kill()  # its workers go on, and the next service waits as this one did
        await b.start()
        await wait_for(b.is_ready, FOUND_S)
        await wait_for(is_blocked, FOUND_S)
        assert (await b.get(f"/v1/connections/{plain}"))["status"] == "Closed"
        assert (await b.get(f"/v1/connections/{kept}"))["status"] == "Reconnecting"
        await b.call("DELETE", f"/v1/connections/{own}")
        await opened_at(b, kept, "b")
        await wait_for(lambda: nothing_is_degraded(b), FOUND_S)
    await nodes.check()


async def test_what_persists_waits_at_an_heir_that_lacks_its_handler_and_is_not_ended_by_a_start(nodes: Nodes) -> None:
    handlers = '[handlers]\nquiet = "types:SimpleNamespace"\n'
    (a,) = await nodes.begin("a", handlers)
    (b,) = await nodes.begin("b")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, worker="desk", handler={"name": "quiet"}, **PERSIST))["id"]
        ended = (await a.open(echo.url, worker="desk"))["id"]
        await a.call("DELETE", f"/v1/connections/{ended}")
        await until_status(b, ended, "Closed")
        await kill(a)

        async def is_blocked() -> bool:
            reasons = await degraded(b)
            return any(reason.startswith("worker desk: connection") and "quiet" in reason for reason in reasons)

        async def it_waits() -> None:
            await wait_for(is_blocked, FOUND_S)
            assert (await b.get(f"/v1/connections/{kept}"))["status"] == "Reconnecting"

        await it_waits()
        await b.call("PUT", "/v1/workers/desk", 201)  # the process helps nothing
        await it_waits()
        # What a dead node had and has ended: its record, whoever is asked to end it, and gone for everything else.
        final = await b.get(f"/v1/connections/{ended}")
        assert await b.call("DELETE", f"/v1/connections/{ended}", 200) == final
        assert (await b.send(ended, b"late", status=410))["type"].endswith("connection-closed")
        await b.call("DELETE", f"/v1/connections/{kept + 1000}", 404)
        await b.kill()
        await b.start()
        await wait_for(b.is_ready, FOUND_S)
        await it_waits()
        await kill(b)
        config = nodes.folder / "b.toml"
        config.write_text(config.read_text() + handlers)
        await b.start()
        await wait_for(b.is_ready, FOUND_S)
        await opened_at(b, kept, "b")
        await wait_for(lambda: nothing_is_degraded(b), FOUND_S)
    await nodes.check()


async def test_a_node_is_ready_once_it_is_told_what_its_worker_had_however_long_its_process_takes_to_start(
    nodes: Nodes,
) -> None:
    beside = "[supervisor]\nfork_workers = false\nstart_timeout = 600\n"
    (a,) = await nodes.begin("a", beside)
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        await a.stop()
        code = nodes.folder / "code"
        code.mkdir()
        (code / "sitecustomize.py").write_text(HELD_START)
        (code / "held").touch()
        a.env = {"PYTHONPATH": str(code)}
        await a.start()
        await wait_for(a.is_ready, FOUND_S)

        async def is_starting() -> bool:
            return [one["status"] for one in (await a.get("/v1/workers"))["workers"]] == ["Starting"]

        await wait_for(is_starting, FOUND_S)
        assert (await a.get(f"/v1/connections/{kept}"))["status"] == "Reconnecting"
        (code / "held").unlink()
        await opened_at(a, kept, "a")
    await nodes.check(given_up="a")


@pytest.mark.long
async def test_a_worker_whose_nodes_die_three_times_is_failed_until_somebody_starts_it(nodes: Nodes) -> None:
    await nodes.begin("abcd")
    async with EchoServer() as echo:
        kept = (await nodes.all["a"].open(echo.url, worker="deadly", **PERSIST))["id"]
        d = nodes.all["d"]
        await d.get(f"/v1/connections/{kept}")
        living = {"a", "b", "c", "d"}
        for again in range(1, 4):
            holder = (await nodes.all[min(living)].get(f"/v1/connections/{kept}"))["node"]
            living.discard(holder)
            await kill(nodes.all[holder])
            one = nodes.all[min(living)]
            if again < 3:

                async def is_open(one: RunningService = one, again: int = again) -> bool:
                    page = await one.get(f"/v1/connections/{kept}/events?after=start&limit=1000&kind=onReconnect")
                    return len(page["events"]) == again

                await wait_for(is_open, FOUND_S)
        last = nodes.all[min(living)]

        async def is_failed() -> bool:
            async with last.client.get("/v1/workers/deadly") as response:
                return response.status == 200 and (await response.json())["status"] == "Failed"

        await wait_for(is_failed, FOUND_S)
        for how in (kill, RunningService.kill):  # whatever becomes of the heir
            await how(last)
            await last.start()
            await wait_for(last.is_ready, FOUND_S)
            await last.call("GET", "/v1/workers/deadly", 200)
            assert await is_failed()
        assert (await last.get(f"/v1/connections/{kept}"))["status"] == "Reconnecting"
        await last.call("PUT", "/v1/workers/deadly", 200)
        await opened_at(last, kept, min(living), again=3)
        await kill(last)
        await last.start()
        await wait_for(last.is_ready, FOUND_S)
        await opened_at(last, kept, min(living), again=4)
    await nodes.check()
