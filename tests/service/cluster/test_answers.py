"""What a node makes of answers that the engine gives for too long, and of a key that is given up while it is asked for."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mooring_service.cluster import chain
from mooring_service.cluster.engine import Busy
from mooring_service.cluster.keys import Keys
from mooring_service.cluster_errors import Elsewhere, EngineDown
from tests.cluster_kit.nodes import Node, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import rounds, wait_for

FOUND_S = 60.0


async def test_a_subject_that_stays_busy_is_asked_about_and_goes_on_behind_it(
    servers: EngineServers, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "BUSY_AT_MOST_S", 0.2)
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=600) as nodes:
        a = nodes["a"]
        connection = await a.open_connection()
        await settled(nodes)
        assert a.cluster.chain is not None
        doubts = a.cluster.chain.doubts

        async def busy(*_: Any) -> tuple[int, bool]:
            raise Busy("a message of this subject is still in process")

        with monkeypatch.context() as engine:
            engine.setattr(a.cluster.engine, "put", busy)
            a.commit(connection, 3)
            await wait_for(lambda: doubts.get("not stored", 0) >= 2, FOUND_S)
        await settled(nodes)
        assert [body for _, one, body in nodes["b"].ids() if one == connection] == [
            body for _, one, body in a.ids() if one == connection
        ]


@rounds(50, 1_000)
async def test_a_key_that_is_given_up_while_others_ask_for_it_is_theirs_or_somebody_elses(
    servers: EngineServers, cluster_name: str, tmp_path: Path, rounds: int
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls) as nodes:
        told: Counter[str] = Counter()

        async def ask(node: Node, key: str) -> None:
            cluster = node.cluster
            keys = Keys(cluster.placement, node.journal, cluster.journal, cluster.fold, node.name)
            try:
                known = await keys.claim(key, b"what was asked", anywhere=True)
            except (Elsewhere, EngineDown) as exc:
                told[type(exc).__name__] += 1
                return
            assert known is None
            told["granted"] += 1
            await keys.answer(key, b"what was asked", None)  # "later": it may be asked again

        for number in range(rounds):
            await asyncio.gather(*(ask(node, f"key {number}") for node in nodes.values()))
        print(told)
        assert told["granted"] >= rounds
        await settled(nodes)
        assert not any(node.cluster.fold.claims.keys for node in nodes.values())
