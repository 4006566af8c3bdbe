"""What the engine may do to nodes, and what must hold all the same: tests 3, 12 to 14, 17 and 18 of the design, each ended by the checker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.errors import JournalUnavailable
from mooring_service.cluster import backlog
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.objects import stream_name
from mooring_service.journal.batch import Append
from tests.cluster_kit.checker import check
from tests.cluster_kit.nodes import Node, NoEstate, running_engine, running_nodes, settled
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.conftest import rounds, wait_for

LOAD_S = 0.02
FOUND_S = 90.0  # a deadline, not a figure
NOBODY_DIES_S = 600.0  # however long a busy machine takes


@contextlib.asynccontextmanager
async def load(nodes: dict[str, Node]) -> AsyncIterator[None]:
    """Events at each node, all the while."""

    async def commit(node: Node) -> None:
        connections = [await node.open_connection() for _ in range(5)]
        while True:
            for connection in connections:
                node.commit(connection, 3)
            await asyncio.sleep(LOAD_S)

    working = [asyncio.create_task(commit(node)) for node in nodes.values()]
    try:
        yield
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def holds(engine: Engine, cluster: str, nodes: dict[str, Node], at_least: int = 1) -> None:
    """Wait until nothing is on its way any more, and check everything."""
    await settled(nodes)
    assert not any(node.refusals for node in nodes.values())
    rows = await check(engine, cluster, {name: node.folder for name, node in nodes.items()})
    assert len(rows) >= at_least
    assert len(rows) == sum(sum(node.sequences.values()) for node in nodes.values())


async def leader_of(servers: EngineServers, cluster: str) -> int:
    """Wait until a server leads the log; return which."""
    found: list[int] = await wait_for(
        lambda: (index := servers.leader(stream_name(cluster))) is not None and [index], FOUND_S
    )
    return found[0]


async def progress(nodes: dict[str, Node], timeout_s: float = FOUND_S) -> None:
    """Wait until each node has something acknowledged that was not before: an election takes 5 to 8 s, on a busy machine more."""
    before = {name: node.cluster.chain.messages for name, node in nodes.items()}

    def stuck() -> list[str]:
        return [name for name, node in nodes.items() if node.cluster.chain.messages == before[name]]

    def told(name: str) -> str:
        chain, engine = nodes[name].cluster.chain, nodes[name].cluster.engine
        return f"{name}: {chain.state.state.name}, {chain.refusal or 'no refusal'}, link {engine.url} {engine.failure or 'up'}, {nodes[name].refusals}"

    try:
        await wait_for(lambda: not stuck(), timeout_s)
    except AssertionError:
        pytest.fail(f"no progress within {timeout_s} s at {[told(name) for name in stuck()]}")


@rounds(1, 20)
@pytest.mark.timeout(900)
async def test_the_streams_leader_is_killed(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, rounds: int
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, dead_after=NOBODY_DIES_S) as nodes:
        async with load(nodes):
            for _ in range(rounds):
                servers.kill(await leader_of(servers, cluster_name))
                await progress(nodes)
                await asyncio.to_thread(servers.start_all)
                await progress(nodes)
        await holds(engine, cluster_name, nodes, 100)


async def test_all_servers_are_killed_and_come_back(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, dead_after=NOBODY_DIES_S) as nodes:
        async with load(nodes):
            await progress(nodes)
            for index in range(3):
                servers.kill(index)
            await asyncio.sleep(1.0)  # events that only the journals have
            for node in nodes.values():  # who can read nothing does not know of itself that it is not behind
                await wait_for(lambda node=node: node.cluster.tail.lag_s > 0.5, FOUND_S)
            await asyncio.to_thread(servers.start_all)
            await progress(nodes)
        await holds(engine, cluster_name, nodes, 100)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_one_server_is_stopped_for_ten_seconds(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, who: str
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, dead_after=NOBODY_DIES_S) as nodes:
        async with load(nodes):
            leader = await leader_of(servers, cluster_name)
            index = leader if who == "leader" else (leader + 1) % 3
            servers.kill(index, signal.SIGSTOP)
            begun = time.monotonic()
            await progress(nodes)
            await asyncio.sleep(max(0.0, 10 - (time.monotonic() - begun)))
            servers.kill(index, signal.SIGCONT)
            await progress(nodes)
        await holds(engine, cluster_name, nodes, 100)


@rounds(4, 100)
@pytest.mark.timeout(900)
async def test_acknowledgements_are_lost_and_each_addition_is_there_once(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, rounds: int
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    ways = Proxies(servers.ports)
    try:
        async with running_nodes(tmp_path, cluster_name, ways.urls, "ab", dead_after=NOBODY_DIES_S) as nodes:
            async with load(nodes):
                for _ in range(rounds):
                    ways.lose_answers()
                    await asyncio.sleep(chance.uniform(0.01, 0.2))
                    ways.cut()
                    ways.pass_on()
                    await progress(nodes)
            await holds(engine, cluster_name, nodes, 20)
            assert sum(node.cluster.chain.doubts.get("stored", 0) for node in nodes.values()), "no answer was lost"
    finally:
        ways.close()


async def test_a_node_that_is_started_again_with_an_unreplicated_tail_publishes_it_in_the_same_life(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    ways = Proxies(servers.ports)
    try:
        async with running_nodes(tmp_path, cluster_name, servers.urls, "b", dead_after=NOBODY_DIES_S) as nodes:
            a = nodes["a"] = Node(tmp_path / "a", "a", cluster_name, ways.urls, dead_after=NOBODY_DIES_S)
            await (await a.start()).ready()
            connection, life = await a.open_connection(), a.cluster.life
            a.commit(connection, 10)
            await settled(nodes)
            ways.hold()
            a.commit(connection, 25)
            await wait_for(lambda: not a.journal.queued_bytes)
            assert not a.replicated
            await a.stop(handover=True)
            ways.cut()
            ways.pass_on()
            await (await a.start()).ready()
            assert a.cluster.life == life
            await holds(engine, cluster_name, nodes, 35)
    finally:
        ways.close()


async def test_a_node_commits_nothing_more_when_too_much_waits_for_the_engine_and_loses_nothing(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    ways = Proxies(servers.ports)
    try:
        async with running_nodes(tmp_path, cluster_name, ways.urls, "a", max_bytes=4_000_000) as nodes:
            a = nodes["a"]
            connection = await a.open_connection()
            ways.hold()
            for _ in range(30):
                a.commit(connection, 10, size=10_000)

            async def is_full() -> bool:
                a.commit(connection, 1)
                return a.journal.failure is not None

            await wait_for(is_full, FOUND_S)
            assert "too much waits for the engine" in str(a.journal.failure)
            with pytest.raises(JournalUnavailable):
                await a.journal.append_waiting(Append(asks_done=[1]), fails_fast=True)
            ways.cut()
            ways.pass_on()
            await wait_for(lambda: a.journal.failure is None, FOUND_S, "it goes on")
            await holds(engine, cluster_name, nodes, 300)
    finally:
        ways.close()


class Ends(NoEstate):
    """Of a service whose workers' connections end with a life: that is committed."""

    node: Node

    async def end_all(self) -> None:
        await self.node.journal.append_waiting(Append(asks_done=[1]))


async def commits_again(node: Node) -> None:
    """Wait until a node takes what fails fast: how much waits is looked at four times a second, and one look may have been made before it went."""

    async def takes() -> bool:
        with contextlib.suppress(JournalUnavailable):
            await node.journal.append_waiting(Append(asks_done=[2]), fails_fast=True)
            return True
        return False

    await wait_for(takes, FOUND_S, "it goes on")


async def test_a_node_that_is_declared_lost_while_too_much_waits_for_the_engine_begins_a_new_life(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    ways = Proxies(servers.ports)
    a = Node(tmp_path / "a", "a", cluster_name, ways.urls, max_bytes=4_000_000)
    a.estate = ends = Ends()
    ends.node = a
    try:
        async with running_nodes(tmp_path, cluster_name, servers.urls, "b") as others:
            await (await a.start()).ready()
            life, connection = a.cluster.life, await a.open_connection()
            ways.hold()

            async def is_full() -> bool:
                a.commit(connection, 1, size=100_000)
                return a.journal.failure is not None

            await wait_for(is_full, FOUND_S)
            await wait_for(lambda: others["b"].cluster.fold.nodes["a"].over, FOUND_S, "the other one says so")
            ways.cut()
            ways.pass_on()
            await wait_for(lambda: a.cluster.life != life, FOUND_S, "a new life")
            await a.ready()
            await commits_again(a)
            await a.stop()
    finally:
        ways.close()


@pytest.mark.parametrize(
    ("clock", "jumps_s"), [("time_ns", (86_500.0, -3 * 86_400.0)), ("clock_gettime", (60.0, 3_600.0))]
)
async def test_clocks_that_jump_and_machines_that_were_suspended_end_nobody(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    clock: str, jumps_s: tuple[float, ...],
) -> None:  # fmt: skip
    real, ahead_s = getattr(time, clock), [0.0]
    async with running_nodes(tmp_path, cluster_name, servers.urls) as nodes:
        lives = {name: node.cluster.life for name, node in nodes.items()}
        unit = 10**9 if clock == "time_ns" else 1.0

        def jumped(*which: int) -> float:
            now = real(*which)
            return now + type(now)(ahead_s[0] * unit)

        monkeypatch.setattr(time, clock, jumped)
        async with load(nodes):
            for jump_s in jumps_s:
                await progress(nodes)
                ahead_s[0] += jump_s
                await progress(nodes)
                await asyncio.sleep(1)  # four looks of each judge
        await holds(engine, cluster_name, nodes, 100)
        for node in nodes.values():
            assert node.cluster.life == lives[node.name]
            assert not any(state.over for state in node.cluster.fold.nodes.values())


async def test_a_journal_that_lost_what_the_log_has_gives_its_life_up(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a = nodes["a"]
        connection, life = await a.open_connection(), a.cluster.life
        a.commit(connection, 1)
        await settled(nodes)
        await a.stop(handover=True)
        copy = {path.name: path.read_bytes() for path in a.folder.iterdir()}
        await (await a.start()).ready()
        a.commit(connection, 5)
        await settled(nodes)
        await a.stop(handover=True)
        for path in a.folder.iterdir():
            if path.name.startswith("journal"):
                path.unlink()
        for name, data in copy.items():
            if name.startswith("journal"):
                (a.folder / name).write_bytes(data)
        await (await a.start()).ready()
        assert a.cluster.life != life
        assert (await a.open_connection()) // 10**12 == 3, "nobody can tell which ids were given out"
        async with running_engine(servers.urls) as other:
            assert other.up.is_set()
        states = nodes["b"].cluster.fold.nodes
        await wait_for(lambda: states["a"].life == a.cluster.life and not states["a"].over)
        assert nodes["b"].cluster.fold.claims.is_over("a", life)


@pytest.mark.parametrize(
    "saved_each_s",
    [pytest.param(0.0, marks=pytest.mark.long), 1_000.0],
    ids=["its place was kept", "its place was not kept yet"],
)
async def test_a_journal_of_an_earlier_life_gives_out_no_id_that_a_later_one_has_given_out(
    servers: EngineServers, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_each_s: float
) -> None:
    monkeypatch.setattr(backlog, "SAVE_S", saved_each_s)
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, claims = nodes["a"], nodes["b"].cluster.fold.claims

        async def dies() -> None:
            life = a.cluster.life
            await a.stop(handover=True)
            await wait_for(lambda: claims.is_over("a", life), FOUND_S, "it is found dead")

        first = await a.open_connection()
        a.commit(first)
        await settled(nodes)
        if not saved_each_s:
            await wait_for(lambda: a.cluster.own.kept.replicated > 0, FOUND_S, "its place is kept")
        await dies()
        copy = {path.name: path.read_bytes() for path in a.folder.iterdir()}
        await (await a.start()).ready()
        later = await a.open_connection()
        assert later // 10**12 == first // 10**12, "it has lost nothing"
        await settled(nodes)
        await dies()
        for path in a.folder.iterdir():
            path.unlink()
        for name, data in copy.items():
            (a.folder / name).write_bytes(data)
        await (await a.start()).ready()
        assert (await a.open_connection()) // 10**12 == 3, "it has lost a whole life"
