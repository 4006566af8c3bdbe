"""What becomes of a node's connections when it dies, stops or returns: told once, and opened again elsewhere if they persist."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal

import msgspec
import pytest

from mooring_service.cluster import objects
from tests.cluster_kit.nodes import THREE, forget_all, running_engine
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.running import DEAD_AFTER_S
from tests.cluster_kit.services import (
    FOUND_S,
    PERSIST,
    Nodes,
    Sockets,
    all_events,
    all_events_of_node,
    causes,
    kill,
    metric,
    opened_at,
    opened_once_more,
    stop_whole,
    until_told,
)
from tests.conftest import wait_for
from tests.servers import EchoServer

KEPT_S = 20.0
UNHURRIED_S = 10.0  # `dead_after` where a process that has no processor for two seconds must not change what happens


async def test_what_a_killed_node_held_is_told_once_and_what_persists_is_open_elsewhere(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, name="kept", **PERSIST))["id"]
        plain = (await a.open(echo.url))["id"]
        other = (await a.open(echo.url, worker="other"))["id"]
        for number in range(10):
            await a.send(kept, b"%d" % number)
            await a.send(plain, b"%d" % number)
        await b.get(f"/v1/connections/{other}")
        await kill(a)
        assert (await opened_at(b, kept, "b"))["worker"] == "main-a"
        assert (await b.send(kept, b"again"))["sent"] == 1
        assert (await b.get("/v1/connections/kept"))["id"] == kept

        async def is_told() -> bool:
            records = [await b.get(f"/v1/connections/{one}") for one in (plain, other)]
            return [record["status"] for record in records] == ["Closed", "Closed"]

        await wait_for(is_told, FOUND_S)
        events = await all_events(b)
        of_kept = [event for event in events if event.get("connection") == kept]
        assert [event["seq"] for event in of_kept] == list(range(1, len(of_kept) + 1))
        (down,) = [event["event"] for event in of_kept if event["kind"] == "onDisconnect"]
        assert (down["cause"], down["code"]) == ("nodeLost", 1006)
        assert [error["errCode"] for error in down["errors"]] == [305]
        (back,) = [event["event"] for event in of_kept if event["kind"] == "onReconnect"]
        assert back["restarted"]
        for one in (plain, other):
            kinds = [event["kind"] for event in events if event.get("connection") == one]
            assert kinds[-2:] == ["onError", "onTerminate"] and kinds.count("onTerminate") == 1
        (lost,) = [event["event"] for event in events if event["kind"] == "nodeLost"]
        assert (lost["node"], lost["by"]) == ("a", "b")
        assert lost["silentMs"] >= DEAD_AFTER_S * 1_000
        assert (await b.get("/v1/cluster"))["nodes"][0]["status"] == "Dead"
        await b.get("/v1/workers/main-a")
        await b.get("/v1/workers/other", 404)
        assert await metric(b, 'mooring_cluster_takeovers_total{why="dead"}') == 2
        assert await metric(b, "mooring_cluster_epochs_total") == 1

        # It returns with its directory: a new life, in which nothing of the old one goes on.
        await a.start()
        await wait_for(a.is_ready, FOUND_S)
        assert (await until_told(b, "nodeReturned", "a"))["life"] == lost["life"], "once"
        assert (await a.get(f"/v1/connections/{kept}"))["node"] == "b"
        assert (await a.send(kept, b"from a"))["sent"] == 1
        fresh = await a.open(echo.url)
        assert (fresh["worker"], fresh["node"]) == ("main-a-2", "a")
        assert [one["id"] for one in (await a.get("/v1/connections?status=Connected"))["connections"]] == sorted(
            [kept, fresh["id"]]
        )
    await nodes.check(given_up="a")


async def test_after_an_ordered_stop_the_others_open_at_once_and_a_later_start_is_a_new_life(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab", dead_after=600)  # so nobody is found dead
    async with Sockets() as echo:
        kept = (await a.open(echo.url, name="kept", **PERSIST))["id"]
        await b.get(f"/v1/connections/{kept}")
        assert await a.stop() == 0
        await opened_at(b, kept, "b")
        assert await metric(b, 'mooring_cluster_takeovers_total{why="left"}') == 1
        assert await causes(b, kept) == ["serviceStopped"]
        assert echo.overlaps == 0
        assert (await b.get("/v1/cluster"))["nodes"][0]["status"] == "Left"
        await a.start()
        await wait_for(a.is_ready, FOUND_S)
        assert (await a.get(f"/v1/connections/{kept}"))["node"] == "b"
        assert (await a.open(echo.url))["node"] == "a"
        kinds = {event["kind"] for event in await all_events(b)}
        assert not kinds & {"nodeLost", "nodeReturned"}
    await nodes.check(given_up="a")


async def test_a_frozen_node_acts_no_more_once_it_wakes_and_begins_a_new_life(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        plain = (await a.open(echo.url))["id"]
        await b.get(f"/v1/connections/{plain}")
        old = list(echo.peers)
        frozen = stop_whole(a)
        await opened_at(b, kept, "b")
        lost = await until_told(b, "nodeLost", "a")
        assert not any(peer.gone.is_set() for peer in old), "a frozen process holds its sockets"
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
        woken_at = asyncio.get_running_loop().time()
        await asyncio.wait_for(asyncio.gather(*(peer.gone.wait() for peer in old)), FOUND_S)
        print(f"sockets of the old life were open for {asyncio.get_running_loop().time() - woken_at:.3f} s more")
        returned = await until_told(b, "nodeReturned", "a")
        assert returned["life"] == lost["life"]
        await wait_for(a.is_ready, FOUND_S)
        assert (await a.get(f"/v1/connections/{kept}"))["node"] == "b"
        assert (await a.get(f"/v1/connections/{plain}"))["status"] == "Closed"
        assert (await a.open(echo.url))["node"] == "a"
        assert len([peer for peer in echo.peers if not peer.gone.is_set()]) == 2
        unreplicated = returned["unreplicated"]
        assert unreplicated is not None, "the ends of its sockets were committed there, and never published"
        local = await all_events_of_node(a)
        assert {unreplicated["from"], unreplicated["to"]} <= {event["id"] for event in local}
    await nodes.check(given_up="a")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_workers_whose_service_is_gone_or_hangs_close_before_the_heir_opens(
    nodes: Nodes, how: signal.Signals
) -> None:
    a, b = await nodes.begin("ab", dead_after=UNHURRIED_S)
    async with Sockets() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        await b.get(f"/v1/connections/{kept}")
        a.process.send_signal(how)
        await opened_at(b, kept, "b")
        assert echo.overlaps == 0
        a.process.kill()
    await asyncio.to_thread(a.process.wait)
    await nodes.check()


@pytest.mark.parametrize("unsure", ["stop", "keep"])
async def test_a_node_that_is_cut_off_alone_stops_or_goes_on_as_unsure_says(nodes: Nodes, unsure: str) -> None:
    (b,) = await nodes.begin("b", dead_after=UNHURRIED_S)
    proxies = Proxies(nodes.servers.ports)
    try:
        (a,) = await nodes.begin("a", dead_after=UNHURRIED_S, engine=proxies.urls, unsure=unsure)
        async with Sockets() as echo:
            kept = (await a.open(echo.url, **PERSIST))["id"]
            await b.get(f"/v1/connections/{kept}")
            proxies.hold()
            await opened_at(b, kept, "b")
            assert echo.overlaps == (unsure == "keep")
            assert echo.peers[0].gone.is_set() is (unsure == "stop")
            assert await metric(a, "mooring_cluster_fenced_total") == 1
            proxies.pass_on()
            await until_told(b, "nodeReturned", "a")
            await asyncio.wait_for(echo.peers[0].gone.wait(), FOUND_S)
            await wait_for(a.is_ready, FOUND_S)
            assert (await a.get(f"/v1/connections/{kept}"))["node"] == "b"
            assert await causes(a, kept) == ["nodeLost"]
            assert len([peer for peer in echo.peers if not peer.gone.is_set()]) == 1
        await nodes.check(given_up="a")
    finally:
        proxies.close()


async def test_an_outage_of_the_engine_closes_nothing_and_kills_nobody(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab", dead_after=UNHURRIED_S)
    count = 16
    async with Sockets() as echo:
        mine = [(await service.open(echo.url, **PERSIST))["id"] for service in (a, b)]
        await asyncio.gather(*(b.get(f"/v1/connections/{one}") for one in mine))
        nodes.servers.stop_all()
        try:

            async def is_away() -> bool:
                return (await a.get("/v1/cluster"))["engine"]["status"] == "down"

            await wait_for(is_away, FOUND_S)
            a.patient = False  # what is its own needs no engine
            for number in range(count):
                assert (await a.send(mine[0], b"%d" % number))["sent"] == 1
                await asyncio.sleep(0.7)  # for longer than `dead_after`
            assert (await a.open(echo.url))["node"] == "a"

            async def all_waits() -> bool:
                return await metric(a, "mooring_cluster_unreplicated_events") == count + 1

            await wait_for(all_waits, FOUND_S)
            problem = await a.call("GET", "/v1/connections/987", 503)
            assert problem["type"].endswith("engine-down")
        finally:
            a.patient = True
            await asyncio.to_thread(nodes.servers.start_all)
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in (a, b)))

        async def all_is_told() -> bool:
            page = await b.get(f"/v1/connections/{mine[0]}/events?after=start&limit=1000")
            return len(page["events"]) == count + 1

        await wait_for(all_is_told, FOUND_S)
        assert not any(peer.gone.is_set() for peer in echo.peers)
        kinds = {event["kind"] for event in await all_events(b)}
        assert not kinds & {"nodeLost", "onDisconnect", "onTerminate"}
    await nodes.check()


async def test_a_wiped_state_directory_is_a_new_life_of_the_node_and_an_heir_has_what_the_old_one_had(
    nodes: Nodes,
) -> None:
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        await b.get(f"/v1/connections/{kept}")
        await kill(a)
        shutil.rmtree(a.state_dir)
        await a.start()
        await wait_for(a.is_ready, FOUND_S)
        await opened_once_more(b, kept)
        fresh = (await a.open(echo.url))["id"]
        assert fresh // 10**12 not in (kept // 10**12, 0)
        assert (await b.get(f"/v1/connections/{fresh}"))["node"] == "a"
        await until_told(b, "nodeLost", "a")
        assert (await until_told(b, "nodeReturned", "a"))["unreplicated"] is None
    await nodes.check(given_up="a", replaced="a")


async def test_a_state_directory_that_is_older_than_the_log_gives_its_life_up(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        await b.get(f"/v1/connections/{kept}")
        await kill(a)
        older = nodes.folder / "older"
        shutil.copytree(a.state_dir, older, ignore=shutil.ignore_patterns("*.sock"))
        await a.start()
        await wait_for(a.is_ready, FOUND_S)
        await opened_once_more(b, kept)  # in the same life, if it was in time
        for number in range(50):
            await a.send(kept, b"%d" % number)
        shown = len((await b.get(f"/v1/connections/{kept}/events?after=start&limit=1000"))["events"])
        await kill(a)
        shutil.rmtree(a.state_dir)
        shutil.copytree(older, a.state_dir)
        await a.start()
        await wait_for(a.is_ready, FOUND_S)

        async def is_open_again() -> bool:
            page = await b.get(f"/v1/connections/{kept}/events?after=start&limit=1000")
            found = [event["kind"] for event in page["events"]].count("onReconnect")
            return found >= 2 and len(page["events"]) > shown

        await wait_for(is_open_again, FOUND_S)
        events = (await b.get(f"/v1/connections/{kept}/events?after=start&limit=1000"))["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    await nodes.check(given_up="a", replaced="a")


@pytest.mark.long
async def test_a_cut_that_ends_before_the_verdict_costs_one_loss_and_the_node_opens_again_itself(nodes: Nodes) -> None:
    (b,) = await nodes.begin("b", dead_after=45)
    proxies = Proxies(nodes.servers.ports)
    try:
        (a,) = await nodes.begin("a", dead_after=45, engine=proxies.urls, unsure="stop")
        async with Sockets() as echo:
            kept = (await a.open(echo.url, **PERSIST))["id"]
            await b.get(f"/v1/connections/{kept}")
            proxies.hold()
            await asyncio.wait_for(echo.peers[0].gone.wait(), 2 * FOUND_S)
            proxies.pass_on()
            await opened_at(b, kept, "a")
            assert await causes(b, kept) == ["cutOff"]
            assert echo.overlaps == 0
        await nodes.check()
    finally:
        proxies.close()


@pytest.mark.parametrize("away", ["ab", pytest.param("a", marks=pytest.mark.long)])
async def test_what_a_node_held_of_which_the_log_keeps_nothing_is_told_once_and_what_persists_is_open(
    nodes: Nodes, away: str
) -> None:
    # So nobody is found dead: only the log's forgetting ends its life. Where all are away, one may wait so long for another to have read more.
    a, b = await nodes.begin("ab", dead_after=600 if away == "a" else 20)
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        plain = (await a.open(echo.url))["id"]
        await b.get(f"/v1/connections/{plain}")
        for name in away:
            await kill(nodes.all[name])
        async with running_engine(nodes.servers.urls) as engine:
            await forget_all(engine, nodes.cluster)
        back = [nodes.all[name] for name in away]
        await asyncio.gather(*(service.start() for service in back))
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in back))
        await opened_once_more(b, kept)
        lost = await until_told(b, "nodeLost", "a")
        assert (await until_told(b, "nodeReturned", "a"))["life"] == lost["life"]
        assert await causes(b, kept) == ["nodeLost"]

        async def is_closed() -> bool:
            return (await b.get(f"/v1/connections/{plain}"))["status"] == "Closed"

        await wait_for(is_closed, FOUND_S)
        fresh = (await a.open(echo.url))["id"]
        assert fresh // 10**12 not in (kept // 10**12, 0), "nobody can tell which ids were given out"
        assert (await b.get(f"/v1/connections/{fresh}"))["node"] == "a"
    await nodes.check(given_up="ab", cut=True)


@pytest.mark.long
@pytest.mark.parametrize("away", ["a", "ab"])
async def test_who_was_away_for_longer_than_the_log_keeps_begins_anew_and_what_persists_opens(
    nodes: Nodes, away: str
) -> None:
    nodes.cluster += "x"
    async with running_engine(nodes.servers.urls) as engine:
        await objects.create(engine, nodes.cluster, msgspec.structs.replace(THREE, max_age_s=KEPT_S))
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, **PERSIST))["id"]
        await b.get(f"/v1/connections/{kept}")
        epoch = (await b.get("/v1/cluster"))["epoch"]
        for name in away:
            await kill(nodes.all[name])
        await asyncio.sleep(2 * KEPT_S + 5)  # the engine drops what is too old by its own clock
        back = [nodes.all[name] for name in away]
        await asyncio.gather(*(service.start() for service in back))
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in back))

        async def is_open_for_all() -> bool:
            records = [await service.get(f"/v1/connections/{kept}") for service in (a, b)]
            return (
                all(record["status"] == "Connected" for record in records) and records[0]["node"] == records[1]["node"]
            )

        await wait_for(is_open_for_all, FOUND_S)
        assert {(await service.get("/v1/cluster"))["epoch"] for service in (a, b)} == {epoch}
        fresh = (await a.open(echo.url))["id"]
        assert fresh // 10**12 not in (kept // 10**12, 0), "nobody can tell which ids were given out"
        assert (await b.get(f"/v1/connections/{fresh}"))["node"] == "a"
        for service in (a, b):
            events = [event["seq"] for event in await all_events(service) if event.get("connection") == kept]
            assert events == sorted(set(events)), "no row a second time"
        gaps = [[event for event in await all_events(service) if event["kind"] == "gap"] for service in (a, b)]
        # Where nobody was there, nothing was missed.
        assert [len(found) for found in gaps] == [1 if away == "a" else 0, 0]
        await nodes.check(given_up="ab", cut=True)
