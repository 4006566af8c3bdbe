"""What is passed on to a node whose life ends before it has answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring_service.cluster.forward import Command, Reply
from mooring_service.cluster_errors import NodeSilent
from tests.cluster_kit.nodes import running_nodes
from tests.cluster_kit.servers import EngineServers

FOUND_S = 90.0


@pytest.mark.parametrize("dies", [True, False], ids=["it dies", "it leaves in order"])
async def test_what_a_node_has_not_answered_when_its_life_ends_is_waited_for_no_longer(
    servers: EngineServers, cluster_name: str, tmp_path: Path, dies: bool
) -> None:
    begun = asyncio.Event()

    async def never_answers(command: Command) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("cancelled as the node stops")

    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes.values()
        await b.cluster.forward.serve(never_answers)
        asked = asyncio.create_task(a.cluster.forward.ask("b", "POST", "/v1/slow", [], b"", 3_600.0))
        await asyncio.wait_for(begun.wait(), FOUND_S)
        await b.stop(handover=dies)
        del nodes["b"]
        with pytest.raises(NodeSilent):
            await asyncio.wait_for(asked, FOUND_S)
        assert a.cluster.fold.nodes["b"].over
        assert a.cluster.forward.outcomes == {("POST", "silent"): 1}
