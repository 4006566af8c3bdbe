"""A node of which the log keeps nothing any more: its old life is over, whoever was there to say so, and nothing of it is published again."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring_service.cluster import message as wire
from mooring_service.cluster.birth import find_epoch
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.lifetimes import declare_forgotten
from mooring_service.cluster.objects import bounds, stream_name, subject_of
from tests.cluster_kit.checker import check_journal, check_log, read_log
from tests.cluster_kit.nodes import Node, NoEstate, forget_all, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

DEADLINE_S = 60.0


async def events_of(engine: Engine, cluster_name: str) -> list[tuple[int, str]]:
    """Return what the log tells of nodes: kind, and which life."""
    rows, _ = check_log(await read_log(engine, cluster_name), cut=True)
    return [(kind, life_in(body)) for _, _, kind, body in rows if kind in (Kind.nodeLost, Kind.nodeReturned)]


def life_in(body: bytes) -> str:
    found = re.search(rb'"life":"(\w+)"', body)
    assert found is not None, body
    return found[1].decode()


@pytest.mark.parametrize("dies_behind_its_word", [False, True])
async def test_a_node_whose_own_chain_is_gone_tells_its_old_life_as_lost_and_takes_a_new_slot(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, dies_behind_its_word: bool
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes["a"], nodes["b"]
        connection, life = await a.open_connection(), a.cluster.life
        assert connection // 10**12 in (1, 2), "whoever of the two came first"
        a.commit(connection, 20)
        await settled(nodes)
        await wait_for(lambda: a.cluster.fold.nodes["a"].beat.connections == 1, DEADLINE_S, "it has told how it is")
        for node in (a, b):
            await node.stop(handover=True)
        applied, replicated = a.cluster.fold.applied, a.cluster.own.kept.replicated
        await forget_all(engine, cluster_name)
        if dies_behind_its_word:  # killed behind its `lost`, before its state directory knows of a new life
            await declare_forgotten(engine, cluster_name, "a", life, replicated, a.cluster.fold, a.cluster.fold.epoch)
        await (await a.start()).ready()
        assert a.cluster.life != life
        assert (await a.open_connection()) // 10**12 == 3, "nobody can tell which ids were given out"
        assert await events_of(engine, cluster_name) == [(Kind.nodeLost, life), (Kind.nodeReturned, life)]
        log = await read_log(engine, cluster_name)
        (lost,) = [wire.extra(message, wire.Lost) for _, message in log if message.kind == wire.LOST]
        assert (lost.reason, lost.by, lost.connections, lost.workers) == ("forgotten", "a", 1, 1)
        assert a.cluster.fold.claims.is_over("a", life)
        a.commit(await a.open_connection(), 5)
        await (await b.start()).ready()
        await settled(nodes)
        assert log[0][0] > applied, "the log went on"
        _, additions = check_log(await read_log(engine, cluster_name), cut=True)
        assert min(additions["a", a.cluster.life]) == a.cluster.own.kept.born + 1 > replicated, (
            "nothing is published again"
        )
        check_journal(
            a.folder / "journal.db",
            {key[1]: found for key, found in additions.items() if key[0] == "a"},
            all_of_it=False,
        )
        assert b.cluster.fold.nodes["a"].life == a.cluster.life and not b.cluster.fold.nodes["a"].over
        assert b.cluster.fold.nodes["a"].slot == 3


async def test_the_name_of_a_log_that_keeps_nothing_is_waited_for_and_then_given_anew(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        known = nodes["a"].cluster.fold.epoch
        assert await find_epoch(engine, cluster_name, "b", 60) == known
        await engine.put(stream_name(cluster_name), subject_of(cluster_name, "stranger"), b"none of ours", 0)
        assert await find_epoch(engine, cluster_name, "b", 60) == known, "what cannot be read tells nothing"
        await nodes["a"].stop(handover=True)
        await forget_all(engine, cluster_name)
        waiting = asyncio.create_task(find_epoch(engine, cluster_name, "b", 60))
        await (await nodes["a"].start()).ready()
        assert await asyncio.wait_for(waiting, DEADLINE_S) == known, "somebody who knows it has come"
        await nodes["a"].stop(handover=True)
        await forget_all(engine, cluster_name)
        fresh = await find_epoch(engine, cluster_name, "b", 0.5)
        assert fresh not in ("", known)
        assert await find_epoch(engine, cluster_name, "c", 60) == fresh
        await nodes["a"].start()


async def test_a_running_node_of_which_the_log_keeps_nothing_any_more_says_so_behind_the_end_of_all_that_it_held(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    ended: list[int] = []

    class Estate(NoEstate):
        async def end_all(self) -> None:
            ended.append((await bounds(engine, cluster_name))[1])

    async with running_nodes(tmp_path, cluster_name, servers.urls, "") as nodes:
        a = nodes["a"] = Node(tmp_path / "a", "a", cluster_name, servers.urls, dead_after=600)
        a.estate = Estate()
        await (await a.start()).ready()
        life = a.cluster.life
        a.commit(await a.open_connection(), 20)
        await settled(nodes)
        await forget_all(engine, cluster_name)
        a.commit(await a.open_connection(), 1)
        await wait_for(lambda: a.cluster.life != life, DEADLINE_S, "its life is over")
        await a.ready()
        ((seq, lost),) = [
            (seq, message) for seq, message in await read_log(engine, cluster_name) if message.kind == wire.LOST
        ]
        assert (lost.life, seq) == (life, ended[0] + 1)
        assert await events_of(engine, cluster_name) == [(Kind.nodeLost, life), (Kind.nodeReturned, life)]
        assert (await a.open_connection()) // 10**12 == 1, "it has lost nothing"
