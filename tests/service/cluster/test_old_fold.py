"""A node whose reading of the log alone has fallen behind: it publishes, and judges and inherits nothing by what it read long ago."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw

from mooring_service.cluster import tail
from mooring_service.journal.batch import Append
from tests.cluster_kit.nodes import running_nodes
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

FOUND_S = 60.0
LOOKS_S = 2.0  # so often it would have looked meanwhile


async def test_who_reads_an_old_log_claims_nothing_until_it_has_caught_up(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls) as nodes:
        a, b, c = nodes.values()
        await wait_for(lambda: "main-c" in a.cluster.fold.claims.workers, FOUND_S)
        await c.stop()  # in order: its worker can be had at once
        await wait_for(lambda: bool(a.cluster.fold.nodes["c"].over), FOUND_S)
        with contextlib.closing(apsw.Connection(str(tmp_path / "a" / "cluster.db"))) as other:
            other.set_busy_timeout(60_000)
            other.execute("BEGIN IMMEDIATE")  # nothing is committed there, and soon nothing is read
            connection = await b.open_connection()
            replica = b.journal.replica
            while replica is not None and replica.total_bytes < 2 * tail.QUEUED_BYTES:
                b.commit(connection, 5, size=100_000)
                await b.journal.append_waiting(Append())
            await wait_for(lambda: a.cluster.judge.fit_since is None, FOUND_S)
            chain = a.cluster.chain
            assert chain is not None
            acked_at = chain.state.acked_at
            await wait_for(lambda: chain.state.acked_at > acked_at, FOUND_S, "it publishes")
            a.estate.left = True
            await asyncio.sleep(LOOKS_S)
            assert a.cluster.judge.fit_since is None
            assert b.cluster.fold.claims.workers["main-c"].node == "c"
            other.execute("ROLLBACK")
        await wait_for(lambda: b.cluster.fold.claims.workers["main-c"].node == "a", FOUND_S)
