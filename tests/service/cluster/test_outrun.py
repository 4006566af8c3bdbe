"""Nodes that the log has outrun: what they missed, they have from a peer; where no peer has it, they go on without."""

from __future__ import annotations

from pathlib import Path

from mooring_service.cluster.engine import Engine
from mooring_service.cluster.objects import bounds, stream_name
from tests.cluster_kit.nodes import Node, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

DEADLINE_S = 60.0


async def missed(node: Node, other: Node, cluster_name: str, engine: Engine) -> int:
    """Stop a node, and have the log forget what another one adds meanwhile; return how far that one has read then."""
    await node.stop(handover=True)
    connection = await other.open_connection()
    other.commit(connection, 50)
    await settled({other.name: other})
    stream = stream_name(cluster_name)
    config = (await engine.api(f"STREAM.INFO.{stream}"))["config"]
    await engine.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 1024})  # the last few
    await engine.api(f"STREAM.UPDATE.{stream}", config)
    first, _ = await bounds(engine, cluster_name)
    assert first > node.cluster.fold.applied + 1, "there is a hole"
    return other.cluster.fold.applied


async def test_a_node_that_the_log_has_outrun_folds_what_its_peer_has_folded(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes["a"], nodes["b"]
        applied = await missed(a, b, cluster_name, engine)
        await a.start()
        await a.ready()
        assert not a.cluster.tail.stopped and a.cluster.tail.gaps == 1
        ((before, upto),) = a.cluster.journal.holes
        assert before < upto and upto >= applied * 10**6, "it had it from the peer, not from the log"
        a.commit(await a.open_connection(), 5)
        await settled(nodes)
        for what in ("workers", "names", "keys", "slots"):
            assert getattr(a.cluster.fold.claims, what) == getattr(b.cluster.fold.claims, what)
        await wait_for(
            lambda: (
                {name: state.life for name, state in a.cluster.fold.nodes.items()}
                == {name: state.life for name, state in b.cluster.fold.nodes.items()}
            ),
            DEADLINE_S,
        )
        assert not b.cluster.tail.stopped and not b.cluster.journal.holes
        assert a.cluster.journal.epoch == b.cluster.journal.epoch
        assert a.ids()[-1] == b.ids()[-1]


async def test_of_nodes_that_were_all_away_the_furthest_serves_the_others(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes["a"], nodes["b"]
        applied = await missed(a, b, cluster_name, engine)
        await b.stop(handover=True)
        await a.start()
        await b.start()
        await a.ready()
        await b.ready()
        await settled(nodes)
        assert a.cluster.journal.holes[0][1] >= applied * 10**6
        assert a.cluster.fold.claims.workers == b.cluster.fold.claims.workers
        assert not b.cluster.journal.holes


async def test_where_nobody_has_what_was_missed_a_node_goes_on_at_what_the_log_keeps(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes["a"], nodes["b"]
        applied = await missed(a, b, cluster_name, engine)
        await b.stop(handover=True)
        await a.start()
        await a.ready()
        ((_, upto),) = a.cluster.journal.holes
        assert upto < (applied + 1) * 10**6
        await b.start()
        await b.ready()
        a.commit(await a.open_connection(), 5)
        await settled(nodes)
        assert not a.cluster.tail.stopped and not b.cluster.tail.stopped
