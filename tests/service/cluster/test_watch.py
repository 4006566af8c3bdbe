"""What concerns lives waits for nobody: neither for a disk that takes nothing nor for an engine that does not answer; and nothing is told each second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from mooring.errors import JournalUnavailable
from mooring_service.cluster import birth, chain, heirs
from mooring_service.cluster.engine import Unknown
from mooring_service.cluster.lives import Peer
from tests.cluster_kit.nodes import Node, running_engine, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

FOUND_S = 60.0
STALL_S = 2.0


def goes_on(node: Node) -> bool:
    """Does a node say of what it holds that it may be held on?"""
    cluster = node.cluster
    return (
        not cluster.lease.is_in_doubt(cluster.chain)
        and cluster.lease.until(cluster.chain, lambda: True) > chain.now_s()
    )


async def goes_on_beyond_the_fence(node: Node) -> None:
    """Look whether it does for longer than the fence; where the machine has stood still itself, again."""
    begun = before = chain.now_s()
    while (now := chain.now_s()) - begun < node.cluster.lease.timers.fence_s + 1:
        if now - before > STALL_S:
            await wait_for(lambda: goes_on(node), FOUND_S)
            begun = now = chain.now_s()
        assert goes_on(node)
        before = now
        await asyncio.sleep(0.1)


async def test_a_disk_that_takes_nothing_is_no_reason_to_take_oneself_for_one_that_stood_still(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=12) as nodes:
        a = nodes["a"]
        begun: list[int] = []
        save_cluster = a.journal.save_cluster

        async def noted(state: bytes, acknowledged: int) -> bool:
            begun.append(acknowledged)
            return await save_cluster(state, acknowledged)

        a.journal.save_cluster = noted  # type: ignore[method-assign]  # of this one object
        connection = await a.open_connection()
        await a.open_connection()
        with contextlib.closing(apsw.Connection(str(a.folder / "journal.db"))) as other:
            other.set_busy_timeout(60_000)
            for _ in range(20):
                a.commit(connection, 3)
                await wait_for(lambda: a.replicated, FOUND_S)
                other.execute("BEGIN IMMEDIATE")  # nothing is committed there
                before = len(begun)
                with contextlib.suppress(AssertionError):  # it was kept between the two: once more
                    await wait_for(lambda: len(begun) > before, 5)  # noqa: B023
                    break
                other.execute("ROLLBACK")
            assert len(begun) > before, "its place is to be kept"
            await goes_on_beyond_the_fence(a)
            assert not any(state.over for state in nodes["b"].cluster.fold.nodes.values())
            other.execute("ROLLBACK")
        a.commit(connection, 3)
        await settled(nodes)


async def test_verdicts_that_the_engine_does_not_answer_keep_nobody_from_looking_at_the_lease(
    servers: EngineServers,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a", dead_after=12) as nodes:
        a = nodes["a"]
        asked: list[str] = []

        async def silent(*_: Any) -> None:
            asked.append("lost")
            await asyncio.sleep(0.5)
            raise Unknown("no answer in time")

        monkeypatch.setattr("mooring_service.cluster.lifetimes.declare_lost", silent)
        long_ago = chain.now_s() - 1_000
        for number in range(20):  # one behind the other they would take three times the fence
            name = f"dead-{number}"
            a.cluster.fold.nodes[name] = type(a.cluster.fold.nodes["a"])(name, life="l")
            a.cluster.judge.peers[name] = Peer(name, "l", long_ago)
        a.cluster.judge.fit_since = long_ago
        await goes_on_beyond_the_fence(a)
        assert len(asked) > 20
        told = [record for record in caplog.records if "cannot be declared lost now" in record.getMessage()]
        assert len(told) == len({record.getMessage() for record in told}) == 20, "each is told once"
        for number in range(20):
            del a.cluster.judge.peers[f"dead-{number}"], a.cluster.fold.nodes[f"dead-{number}"]


async def test_a_node_that_starts_without_its_engine_goes_on_with_what_it_holds(tmp_path: Path) -> None:
    a = Node(tmp_path / "a", "a", "none", ["nats://127.0.0.1:1"], dead_after=12)
    await a.start()
    try:
        await goes_on_beyond_the_fence(a)
        assert a.cluster.lease.fenced == 0
    finally:
        await a.stop(handover=True)


async def test_why_a_worker_is_not_taken_over_yet_is_told_once_and_counted_once(
    servers: EngineServers,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(heirs, "AGAIN_S", 0.05)
    tries = 0

    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=600) as nodes:
        a, b = nodes["a"], nodes["b"]

        async def take(worker: str) -> bool:
            nonlocal tries
            tries += 1
            if tries < 5:
                raise JournalUnavailable("the disk is full")
            a.estate.left = False
            return False

        a.estate.left, a.estate.take = True, take  # type: ignore[method-assign]  # of this one object
        await b.stop()
        await wait_for(lambda: tries >= 5 and not a.cluster.heirs.busy, FOUND_S)
        told = [record.getMessage() for record in caplog.records if "main-b" in record.getMessage()]
        assert len([text for text in told if "is not taken over yet: the disk is full" in text]) == 1
        assert len([text for text in told if "is taken over" in text]) == 1
        assert a.cluster.heirs.takeovers == {"left": 1}


@pytest.mark.parametrize("persists", [True, False])
async def test_a_takeover_that_is_done_and_folded_late_is_not_done_again(
    servers: EngineServers,
    cluster_name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    persists: bool,
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=600) as nodes:
        a, b = nodes["a"], nodes["b"]
        done = 0

        async def take(worker: str) -> bool:
            nonlocal done
            done += 1
            a.estate.left = False
            return persists

        async def told(worker: str) -> None:
            """It is not folded in time."""

        a.estate.left, a.estate.take = True, take  # type: ignore[method-assign]  # of this one object
        a.cluster.placement.told = told  # type: ignore[method-assign]  # likewise
        await b.stop()
        async with asyncio.timeout(FOUND_S):
            while not done or a.cluster.heirs.busy:
                await asyncio.sleep(0)
        a.cluster.heirs.look(time.monotonic(), fit=True)
        await settled({"a": a}, FOUND_S)
        await wait_for(lambda: not a.cluster.heirs.busy, FOUND_S)
        assert done == 1
        assert len([text for text in caplog.messages if "main-b" in text and "is taken over" in text]) == 1


async def test_that_the_engine_cannot_be_asked_is_told_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(birth, "LOOK_S", 0.001)
    answers = ["no quorum"] * 50 + ["no leader"] * 50

    async def ask() -> str:
        if answers:
            raise Unknown(answers.pop(0))
        return "an answer"

    assert await birth.until_asked(ask) == "an answer"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the engine cannot be asked: no quorum",
        "the engine cannot be asked: no leader",
    ]


async def test_who_waits_for_a_message_that_does_not_come_leaves_nothing_behind(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        tail = nodes["a"].cluster.tail
        assert not any(await asyncio.gather(*(tail.reach(1 << 40, 0.01) for _ in range(100))))
        assert not tail._waiting


async def test_what_is_served_on_a_link_that_ends_meanwhile_is_served_on_the_next(servers: EngineServers) -> None:
    async with running_engine(servers.urls) as engine, running_engine(servers.urls, "other") as other:
        assert engine.link is not None
        answered = asyncio.Event()

        async def answer(asked: Any) -> None:
            answered.set()
            await engine.publish(asked.reply, b"here")

        first = engine.link
        await first.client.close()
        await engine.serve("mooring.somewhere", answer)
        await wait_for(lambda: engine.link is not None and engine.link is not first, FOUND_S)

        async def is_heard() -> bool:
            with contextlib.suppress(Exception):
                return await other.ask("mooring.somewhere", b"", timeout_s=0.4) == b"here"
            return False

        await wait_for(is_heard, FOUND_S)
