"""The engine is away, for all or for one: while it may come back, nothing is closed and nobody is dead; who freezes then holds nothing for too long."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.services import FOUND_S, PERSIST, Nodes, Sockets, all_events, opened_at
from tests.conftest import RunningService, wait_for

AWAY_S, AHEAD_S = 20.0, 3.0


async def is_refused(service: RunningService, method: str, path: str, **options: object) -> None:
    """Ask for what needs the engine."""
    problem = await service.call(method, path, 503, **options)
    assert problem["type"].endswith("engine-down"), problem


@pytest.mark.long
async def test_the_engine_is_away_for_longer_than_a_death_takes_and_back_for_one_node_before_the_others(
    nodes: Nodes,
) -> None:
    ways = {name: Proxies(nodes.servers.ports) for name in "abc"}
    try:
        for name, way in ways.items():
            await nodes.begin(name, engine=way.urls, dead_after=15)
        await _away_and_back(nodes, ways)
    finally:
        for way in ways.values():
            way.close()


async def _away_and_back(nodes: Nodes, ways: dict[str, Proxies]) -> None:
    a = nodes.all["a"]
    async with Sockets() as echo:
        mine = {name: (await service.open(echo.url, **PERSIST))["id"] for name, service in nodes.all.items()}
        plain = {name: (await service.open(echo.url))["id"] for name, service in nodes.all.items()}
        for service in nodes.all.values():
            for one in (*mine.values(), *plain.values()):
                await service.get(f"/v1/connections/{one}")
        nodes.servers.stop_all()
        begun, sent = time.monotonic(), 0
        try:
            for service in nodes.all.values():

                async def is_away(service: RunningService = service) -> bool:
                    return bool((await service.get("/v1/cluster"))["engine"]["status"] == "down")

                await wait_for(is_away, FOUND_S)
                service.patient = False  # what is its own needs no engine
            while time.monotonic() - begun < AWAY_S:
                for name, service in nodes.all.items():
                    for one in (mine[name], plain[name]):
                        assert (await service.send(one, b"%d" % sent))["sent"] == 1
                sent += 1
                await asyncio.sleep(0.3)
            made = {name: await service.open(echo.url) for name, service in nodes.all.items()}
            assert [record["node"] for record in made.values()] == list(nodes.all)
            for name, service in nodes.all.items():
                other = mine["bca"["abc".index(name)]]
                await is_refused(service, "DELETE", f"/v1/connections/{other}")
                await is_refused(service, "GET", "/v1/connections/987")
                await is_refused(service, "POST", "/v1/connections", json={"url": echo.url, "worker": f"new-{name}"})
                await is_refused(service, "PUT", "/v1/connections/new", json={"url": echo.url})
                assert (await service.get(f"/v1/connections/{other}"))["status"] == "Connected", "as the log told last"
        finally:
            for service in nodes.all.values():
                service.patient = True
            for name in "bc":
                ways[name].hold()
            await asyncio.to_thread(nodes.servers.start_all)
        await wait_for(a.is_ready, FOUND_S)
        await asyncio.sleep(AHEAD_S)
        for name in "bc":
            assert (await nodes.all[name].get("/v1/cluster"))["engine"]["status"] == "down"
            ways[name].cut()
            ways[name].pass_on()
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in nodes.all.values()))
        ours = [*mine.values(), *plain.values()]
        told: list[list[dict[str, object]]] = []
        for service in nodes.all.values():

            async def all_is_told(service: RunningService = service) -> list[dict[str, object]] | None:
                found = [event for event in await all_events(service) if event.get("connection") in ours]
                return found if len(found) == len(ours) * (1 + sent) else None

            told.append(await wait_for(all_is_told, FOUND_S, f"{len(ours)} times {sent} messages"))
        assert told[0] == told[1] == told[2]
        for one in ours:
            events = [event for event in told[0] if event["connection"] == one]
            assert [event["seq"] for event in events] == list(range(1, sent + 2))
            assert [event["event"]["data"] for event in events[1:]] == [str(number) for number in range(sent)]
        assert not any(peer.gone.is_set() for peer in echo.peers)
        assert len(echo.peers) == 9
        kinds = {event["kind"] for event in await all_events(a)}
        assert not kinds & {"nodeLost", "nodeReturned", "onDisconnect", "onTerminate", "gap"}
    await nodes.check()


async def _freezes(service: RunningService, from_s: float, until_s: float) -> bool:
    """Freeze a service so long after its last acknowledgement; say whether that was done in time, else it goes on."""
    while True:
        asked_at = time.monotonic()
        age_s = (await service.get("/v1/cluster"))["engine"]["lastAckMs"] / 1000
        if age_s >= from_s:
            break
        await asyncio.sleep(0.01)
    service.process.send_signal(signal.SIGSTOP)
    if age_s + time.monotonic() - asked_at < until_s:
        return True
    service.process.send_signal(signal.SIGCONT)
    return False


@pytest.mark.long
async def test_a_service_that_freezes_eight_seconds_after_its_last_acknowledgement_has_its_sockets_closed_before_the_heir_opens(
    nodes: Nodes,
) -> None:
    (b,) = await nodes.begin("b", dead_after=15)
    proxies = Proxies(nodes.servers.ports)
    try:
        (a,) = await nodes.begin("a", dead_after=15, engine=proxies.urls)
        async with Sockets() as echo:
            kept = (await a.open(echo.url, **PERSIST))["id"]
            await b.get(f"/v1/connections/{kept}")
            proxies.hold()
            while not await _freezes(a, 7.7, 7.98):  # this machine was too slow just now: once more
                proxies.cut()
                proxies.pass_on()
                await wait_for(a.is_ready, FOUND_S)
                proxies.hold()
            await opened_at(b, kept, "b")
            assert echo.overlaps == 0
            assert a.worker_pids() == [], "what held the socket has ended"
            a.process.kill()
        await asyncio.to_thread(a.process.wait)
        await nodes.check()
    finally:
        proxies.close()


async def test_sockets_are_not_read_while_too_much_waits_for_the_engine_and_nothing_is_lost(nodes: Nodes) -> None:
    count = 1_400  # 14 MB, 2 MB a second: 8 may wait, which is looked at four times a second
    (b,) = await nodes.begin("b", dead_after=600)
    proxies = Proxies(nodes.servers.ports)
    try:
        (a,) = await nodes.begin("a", "[journal]\nmax_bytes = 16_000_000\n", dead_after=600, engine=proxies.urls)
        async with Sockets() as server:
            await a.call("DELETE", f"/v1/connections/{(await a.open(server.url))['id']}")  # its worker is held now
            proxies.hold()
            one = (await a.open(f"{server.url}push?count={count}&size=10000&interval=0.005"))["id"]

            async def is_full() -> bool:
                async with a.client.get("/readyz") as response:
                    return "too much waits for the engine" in await response.text()

            await wait_for(is_full, FOUND_S)
            came = 0
            while came != (came := (await a.record(one))["stats"]["messagesIn"]):
                await asyncio.sleep(1)
            assert 0 < came < count, "the rest stays where it is"
            assert not server.peers[1].gone.is_set()
            proxies.cut()
            proxies.pass_on()

            async def all_came() -> bool:
                async with b.client.get(f"/v1/connections/{one}") as response:  # b has not heard of it yet
                    return response.status == 200 and (await response.json())["stats"]["messagesIn"] == count

            await wait_for(all_came, FOUND_S)
            told = [event for event in await b.events(one, count=count + 1, timeout_s=FOUND_S)]
            assert [event["seq"] for event in told] == list(range(1, count + 2))
            assert [int(event["event"]["data"].rstrip(".")) for event in told[1:]] == list(range(1, count + 1))
        await nodes.check()
    finally:
        proxies.close()
