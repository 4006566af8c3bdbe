"""The engine is away around the start or the end of a life: nothing is told that is not so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mooring_service.cluster import birth
from mooring_service.cluster import message as wire
from mooring_service.cluster.birth import Birth, Kept, end_forgotten, until_asked
from mooring_service.cluster.engine import Down, Engine
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.message import Message
from mooring_service.cluster.objects import create, stream_name, subject_of
from mooring_service.cluster_config import ClusterConfig
from mooring_service.journal.folded import Folded
from mooring_service.journal.replica import Replica
from tests.cluster_kit.nodes import THREE, Node, running_nodes
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

DEADLINE_S = 60.0


async def test_what_was_committed_in_a_life_that_ends_before_it_is_published_is_never_shown_in_the_cluster(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    ways = Proxies(servers.ports)
    a = Node(tmp_path / "a", "a", cluster_name, ways.urls)
    async with running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes:
        await a.start()
        try:
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
        finally:
            await a.stop(handover=True)
            ways.close()


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
