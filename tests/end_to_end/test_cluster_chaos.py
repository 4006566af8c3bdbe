"""Faults under load, as `python -m tests.bench.chaos` has them: one short round of those that no other test has."""

from __future__ import annotations

import os

import pytest

from tests.bench.chaos.__main__ import run
from tests.cluster_kit.servers import EngineServers


@pytest.mark.long
@pytest.mark.parametrize("case", ["part", "edge", "judge", "all"])
async def test_the_law_of_the_log_holds_under_load_when(servers: EngineServers, case: str) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"{case}, seed {seed}")
    told = await run(servers, case, seed, 1, dead_after=5, unsure="keep", rate=600, connections=48)
    assert told["verdict"] == "right"
