"""Three nodes and one log: what one has committed, all show, with the same ids in the same order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mooring_service.cluster import message as wire
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.message import PART_BYTES
from mooring_service.cluster.objects import stream_name, subject_of
from mooring_service.cluster.position import slot_of
from mooring_service.config import ClusterRefused
from mooring_service.journal.batch import Append
from tests.cluster_kit.checker import check, read_log
from tests.cluster_kit.nodes import Node, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for


async def test_what_one_node_commits_all_show_with_the_same_ids(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls) as nodes:
        connections = {name: await node.open_connection() for name, node in nodes.items()}
        assert sorted(slot_of(connection) for connection in connections.values()) == [1, 2, 3]
        for _ in range(100):
            for name, node in nodes.items():
                node.commit(connections[name], 10)
        await settled(nodes)
        rows = await check(engine, cluster_name, {name: node.folder for name, node in nodes.items()})
        assert len(rows) == 3_000
        shown = [node.ids() for node in nodes.values()]
        assert shown[0] == shown[1] == shown[2] == [(at, who, body) for at, who, _, body in rows]
        assert len({node.cluster.fold.epoch for node in nodes.values()}) == 1


async def test_an_addition_that_is_larger_than_a_message_arrives_whole(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        connection = await nodes["a"].open_connection()
        replica = nodes["a"].journal.replica
        assert replica is not None
        reading, reads = replica.read, []

        async def read(after: int, limit_bytes: int) -> list[bytes]:
            reads.append(await reading(after, limit_bytes))
            return reads[-1]

        replica.read = read
        nodes["a"].commit(connection, 1)
        nodes["a"].commit(connection, 3, size=600_000)
        nodes["a"].commit(connection, 2)
        await settled(nodes)
        assert sum(len(found[0]) > PART_BYTES for found in reads) == 1, "for all of its parts"
        rows = await check(engine, cluster_name, {name: node.folder for name, node in nodes.items()})
        assert len(rows) == 6


async def test_a_node_goes_on_in_the_same_life_after_a_restart_and_begins_a_new_one_after_an_orderly_end(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=600) as nodes:
        a = nodes["a"]
        connection, life = await a.open_connection(), a.cluster.life
        a.commit(connection, 5)
        await settled(nodes)
        await a.stop(handover=True)
        await (await a.start()).ready()
        assert a.cluster.life == life
        assert slot_of(await a.open_connection()) == slot_of(connection)
        a.commit(connection, 5)
        await settled(nodes)
        await a.stop()
        await (await a.start()).ready()
        assert a.cluster.life != life
        a.commit(connection, 5)
        await settled(nodes)
        assert len(await check(engine, cluster_name, {name: node.folder for name, node in nodes.items()})) == 15


async def test_a_node_that_is_ready_has_its_default_worker_also_in_a_new_life(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "abc") as nodes:
        for _ in range(5):
            for name, node in nodes.items():
                await node.stop()
                await (await node.start()).ready()
                assert node.cluster.placement.holds(f"main-{name}")


async def test_a_node_whose_default_worker_is_claimed_by_another_in_the_same_moment_has_the_next_one(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes:
        b = nodes["b"]
        a = nodes["a"] = Node(tmp_path / "a", "a", cluster_name, servers.urls)
        await a.start()
        commit = a.journal.append_waiting

        async def commit_later(append: Append, **how: bool) -> None:
            if append.claims and not b.cluster.placement.holds("main-a"):
                await b.cluster.placement.hold("main-a")  # behind the look of the one, before its claim
            await commit(append, **how)

        a.journal.append_waiting = commit_later  # type: ignore[method-assign]  # of this one object
        await a.ready()
        assert b.cluster.placement.holds("main-a")
        assert a.cluster.placement.default_worker == "main-a-2"
        assert a.cluster.placement.holds("main-a-2")


async def test_a_worker_that_is_asked_for_while_it_is_being_given_up_is_held_again(
    servers: EngineServers, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.cluster.placement.CLAIM_S", 60.0)
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        placement = nodes["a"].cluster.placement
        for _ in range(5):
            await placement.hold("desk")
            assert placement.holds("desk")
            await placement.release("desk")  # it is committed, and on its way to the log
            assert not placement.holds("desk")
        await placement.hold("desk")
        await settled(nodes)
        assert placement.holds("desk"), "what was asked for last holds"


async def test_a_second_process_of_one_name_is_refused_while_the_first_is_heard(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        second = await Node(tmp_path / "second", "a", cluster_name, servers.urls).start()
        try:
            await wait_for(lambda: second.refusals)
            assert "another service is node 'a'" in second.refusals[0]
            assert nodes["a"].cluster.ready
        finally:
            await second.stop(handover=True)


async def test_a_node_that_waits_for_another_time_than_the_others_is_refused(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a"):
        other = await Node(tmp_path / "b", "b", cluster_name, servers.urls, dead_after=6.0).start()
        try:
            await wait_for(lambda: other.refusals)
            assert other.refusals == ["cluster.dead_after is 6 here, and 5 at the node 'a': it must be equal"]
        finally:
            await other.stop(handover=True)


async def test_a_state_directory_of_another_cluster_or_with_connections_from_before_is_refused(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a"):
        pass
    moved = Node(tmp_path / "a", "a", f"{cluster_name}x", servers.urls)
    with pytest.raises(ClusterRefused, match="this state directory is of the cluster"):
        await moved.start()
    await moved.journal.stop()
    single = Node(tmp_path / "b", "b", cluster_name, servers.urls)
    with pytest.raises(ClusterRefused, match="connections that have not ended, from before"):
        await single.start(has_connections=True)
    await single.journal.stop()


@pytest.mark.parametrize("what", ["damaged", "of a stranger", "of a later version"])
async def test_a_message_that_is_none_of_ours_is_left_out_and_one_of_a_later_mooring_ends_it(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, what: str
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a = nodes["a"]
        connection = await a.open_connection()
        a.commit(connection, 3)
        await settled(nodes)
        data = {
            "damaged": b"\xc1 rubbish",
            "of a stranger": wire.encode((await read_log(engine, cluster_name))[-1][1]),
            "of a later version": msgspec.msgpack.encode([wire.VERSION + 1, "?"]),
        }[what]
        await engine.put(stream_name(cluster_name), subject_of(cluster_name, "stranger"), data, 0)
        if what == "of a later version":
            await wait_for(lambda: all(node.refusals for node in nodes.values()))
            assert "start a later one" in a.refusals[0]
            return
        a.commit(connection, 3)
        await settled(nodes)
        assert {node.cluster.fold.strangers for node in nodes.values()} == {1}
        assert nodes["a"].ids() == nodes["b"].ids()
        assert len(a.ids()) == 6
