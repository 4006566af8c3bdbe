"""The start and the end of a life, and an engine that is away then: what waits is bounded, and nothing is told that is not so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mooring.errors import JournalUnavailable
from mooring_service.cluster import birth
from mooring_service.cluster import message as wire
from mooring_service.cluster.birth import Birth, Kept, end_forgotten, until_asked
from mooring_service.cluster.engine import Down, Engine
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.message import Message
from mooring_service.cluster.objects import create, stream_name, subject_of
from mooring_service.cluster.status import record_of
from mooring_service.cluster.tail import Tail
from mooring_service.cluster_config import ClusterConfig
from mooring_service.journal.folded import Folded
from mooring_service.journal.replica import Replica
from tests.cluster_kit.nodes import THREE, Node, running_nodes, settled
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for
from tests.service.cluster.test_faults import Ends, commits_again

DEADLINE_S = 60.0


@contextlib.asynccontextmanager
async def own_ways(
    servers: EngineServers, folder: Path, cluster_name: str, **settings: Any
) -> AsyncIterator[tuple[Node, Proxies]]:
    """Make the node a, which has ways of its own to the engine; it is to be started."""
    ways = Proxies(servers.ports)
    a = Node(folder / "a", "a", cluster_name, ways.urls, **settings)
    try:
        yield a, ways
    finally:
        await a.stop(handover=True)
        ways.close()


async def test_what_was_committed_in_a_life_that_ends_before_it_is_published_is_never_shown_in_the_cluster(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with (
        running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes,
        own_ways(servers, tmp_path, cluster_name) as (a, ways),
    ):
        await a.start()
        await a.ready()
        life, connection = a.cluster.life, await a.open_connection()
        ways.hold()
        a.commit(connection)
        await wait_for(lambda: not a.journal.queued_bytes, DEADLINE_S)
        shown = asyncio.create_task(a.cluster.shown(600.0))
        claims = nodes["b"].cluster.fold.claims
        await wait_for(lambda: claims.is_over("a", life), DEADLINE_S, "it is found dead")
        ways.cut()
        ways.pass_on()
        await wait_for(lambda: a.cluster.life != life, DEADLINE_S, "a new life")
        assert not await asyncio.wait_for(shown, DEADLINE_S)
        await a.ready()
        assert await a.cluster.shown(DEADLINE_S), "what is of the new one is shown"


async def test_who_waits_for_the_log_waits_for_acknowledging_and_reading_together(
    servers: EngineServers, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    reach = Tail.reach

    async def noted(tail: Tail, seq: int, timeout_s: float) -> bool:
        given.append(timeout_s)
        return await reach(tail, seq, timeout_s)

    ways = Proxies(servers.ports)
    try:
        async with running_nodes(tmp_path, cluster_name, ways.urls, "a", dead_after=600.0) as nodes:
            a = nodes["a"]
            connection = await a.open_connection()
            await settled(nodes, DEADLINE_S)
            assert a.journal.replica is not None
            wanted = a.journal.replica.last + 1
            monkeypatch.setattr(Tail, "reach", noted)
            # Nothing waits in between: the link does not live for long now, and without one nobody waits for the log.
            ways.hold()
            a.commit(connection)
            shown = asyncio.create_task(a.cluster.shown(DEADLINE_S, wanted))
            await asyncio.sleep(0)
            begun = time.monotonic()
            await asyncio.sleep(0.5)  # for so long at least nothing is acknowledged
            held_s = time.monotonic() - begun
            ways.cut()
            ways.pass_on()
            assert await asyncio.wait_for(shown, 2 * DEADLINE_S)
            assert len(given) == 1 and given[0] < DEADLINE_S - held_s
    finally:
        ways.close()


async def test_who_waits_for_the_claims_of_a_life_that_ends_before_they_are_published_waits_no_longer(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with (
        running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes,
        own_ways(servers, tmp_path, cluster_name) as (a, ways),
    ):
        ways.trap(b"main-a", passes=False)  # the claim of its default worker
        await a.start()
        await wait_for(lambda: ways.sprung, DEADLINE_S, "its place was taken, and its claim is on its way")
        life, claims = a.cluster.life, nodes["b"].cluster.fold.claims
        await wait_for(lambda: claims.is_over("a", life), DEADLINE_S, "it is found dead")
        ways.cut()
        ways.pass_on()
        await a.ready()
        assert a.cluster.life != life

        def waiting() -> list[str]:
            names = [str(task.get_coro()) for task in asyncio.all_tasks()]
            return [name for name in names if "_take_place" in name]

        await wait_for(lambda: not waiting(), DEADLINE_S, "neither life's place is waited for")


async def fill(node: Node, connection: int) -> None:
    """Commit until nothing more is."""

    async def is_full() -> bool:
        node.commit(connection, 1, size=50_000)
        return node.journal.failure is not None

    await wait_for(is_full, DEADLINE_S, "too much waits")
    assert "too much waits for the engine" in str(node.journal.failure)


@pytest.mark.parametrize("dies", [False, True], ids=["it lives", "it is found dead meanwhile"])
async def test_a_node_that_starts_again_in_an_outage_is_bounded_as_before_and_goes_on_after_it(
    servers: EngineServers, cluster_name: str, tmp_path: Path, dies: bool
) -> None:
    settings = {} if dies else {"dead_after": 600.0}
    async with (
        running_nodes(tmp_path, cluster_name, servers.urls, "b", **settings) as nodes,
        own_ways(servers, tmp_path, cluster_name, max_bytes=1_000_000, **settings) as (a, ways),
    ):
        a.estate = ends = Ends()
        ends.node = a
        await a.start()
        await a.ready()
        life, connection = a.cluster.life, await a.open_connection()
        ways.hold()
        await fill(a, connection)
        await a.stop(handover=True)  # in an outage
        if dies:
            claims = nodes["b"].cluster.fold.claims
            await wait_for(lambda: claims.is_over("a", life), DEADLINE_S, "it is found dead")
        await a.start()
        assert a.journal.failure is None
        await fill(a, connection)
        assert a.cluster.chain is None, "the engine is still away"
        waits = record_of(a.cluster).unreplicated
        assert waits.bytes > 500_000 and waits.events and waits.additions
        ways.cut()
        ways.pass_on()
        await a.ready()
        await commits_again(a)
        await wait_for(lambda: a.replicated, DEADLINE_S, "all of it is published")
        assert (a.cluster.life != life) is dies


async def test_a_node_that_is_ready_has_told_what_became_of_its_default_worker(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        a = nodes["a"]
        for _ in range(3):
            await a.stop()
            await a.start()
            while not a.cluster.ready:  # as early as that is said
                await asyncio.sleep(0)
            placement = a.cluster.placement
            held = a.cluster.fold.claims.workers[placement.default_worker]
            assert placement.is_mine(held) and not held.inherited
            await placement.hold(placement.default_worker)


async def test_no_id_of_a_slot_that_another_node_has_is_given_out_while_a_new_one_is_asked_for(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        a = nodes["a"]
        assert (await a.open_connection()) // 10**12 == 1
        a.cluster._is_up(msgspec.structs.replace(a.cluster.fold.nodes["a"], slot=0))  # as folded where it is refused
        with pytest.raises(JournalUnavailable, match="no place"):
            assert a.journal.first_id
        await wait_for(lambda: a.journal.replica is not None and a.journal.replica.slot == 2, DEADLINE_S)
        assert (await a.open_connection()) // 10**12 == 2


class Away(Engine):
    """An engine that is away for the first messages."""

    left = 3

    async def put(self, *args: Any, **options: Any) -> tuple[int, bool]:
        if self.left:
            self.left -= 1
            raise Down("no link")
        return await super().put(*args, **options)


@pytest.mark.parametrize("how", ["forgotten", "behind"])
async def test_a_life_is_told_as_lost_once_it_is(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, how: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(birth, "LOOK_S", 0.01)
    caplog.set_level(logging.WARNING, "mooring.cluster")
    assert await create(engine, cluster_name, THREE)
    away, fold = Away(engine.settings), Fold(Folded(0, {}))
    running = asyncio.create_task(away.run())
    if how == "forgotten":
        said: Awaitable[object] = end_forgotten(away, cluster_name, "a", "old", 5, fold, "e")
    else:
        message = wire.encode(Message(wire.VERSION, wire.BEAT, "a", "old", b"rrrrnnnn", 0, "e", last=5))
        put = partial(engine.put, stream_name(cluster_name), subject_of(cluster_name, "a"), message, 0)
        await until_asked(put)
        config = ClusterConfig(name=cluster_name, node="a", engine=servers.urls)
        kept = Kept(cluster_name, "old", slot=1)
        said = until_asked(Birth(away, config, kept, Replica(tmp_path / "journal.db"), b"rrrr", fold).own_chain)
    try:
        await asyncio.wait_for(said, DEADLINE_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    lines = [record.getMessage() for record in caplog.records]
    told = ["is declared lost" in line for line in lines if "no link" in line or "is declared lost" in line]
    assert told == [*[False] * (len(told) - 1), True] and len(told) > 1, lines
