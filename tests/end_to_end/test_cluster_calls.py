"""What code in a worker of one node asks of a worker of another: in order, once at most, whoever dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_kit.running import running_services
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import until_given_up
from tests.conftest import RunningService, rounds, wait_for
from tests.end_to_end.with_user_code import call, options, seen_by

WAIT_S = 60.0


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, "ab", *options(), dead_after=30) as found:
        yield found


async def has_seen(service: RunningService, worker: str, values: list[Any]) -> bool:
    """Has a worker run these calls? One that is just being killed does not say."""
    asked = {"function": "get_seen", "params": []}
    async with service.client.post(f"/v1/workers/{worker}/calls", json=asked) as response:
        told = await response.json()
        assert response.status in (200, 409, 502, 503), told
        return bool(told.get("result") == values)


async def test_a_call_runs_where_its_worker_is_and_a_kill_ends_it_there(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str
) -> None:
    a, b = nodes.values()
    await b.call("PUT", "/v1/workers/desk", 201, json={"node": "b"})
    await call(a, "tell", "desk", 1, 2, 3, worker="near")
    await wait_for(lambda: has_seen(b, "desk", [1, 2, 3]), WAIT_S)
    assert (await a.get("/v1/workers/near"))["node"] == "a"
    assert await seen_by(a, "desk") == [1, 2, 3], "asked at the other node, it is the same worker"
    large = "x" * 700_000  # as a parameter, and in the result: in pieces, both ways
    for _ in range(3):
        await a.call("POST", "/v1/workers/desk/calls", 200, json={"function": "remember", "params": [large]})
    assert await seen_by(a, "desk") == [1, 2, 3, large, large, large] == await seen_by(b, "desk")
    # A worker that nobody has is begun by who asks.
    await call(b, "tell", "fresh", "first", worker="far")

    async def it_is_begun() -> bool:
        found = {one["name"]: one["node"] for one in (await a.get("/v1/workers"))["workers"]}
        return found.get("fresh") == "b"

    await wait_for(it_is_begun, WAIT_S)
    await wait_for(lambda: has_seen(a, "fresh", ["first"]), WAIT_S)
    # In one breath: the end of the old one comes first.
    was = (await b.get("/v1/workers/desk"))["pid"]
    await call(a, "kill_then_call", "desk", worker="near")
    await wait_for(lambda: has_seen(b, "desk", ["after the kill"]), WAIT_S)
    assert (await a.get("/v1/workers/desk"))["pid"] != was
    await call(a, "kill", "desk", worker="near")

    async def it_is_gone() -> bool:
        return "desk" not in {one["name"] for one in (await a.get("/v1/workers"))["workers"]}

    await wait_for(it_is_gone, WAIT_S)
    await until_given_up(servers, cluster_name, "desk")
    await a.get("/v1/connections/77", 404)  # behind the end of the log
    assert (await a.call("PUT", "/v1/workers/desk", 201))["node"] == "a", "whoever is asked first has it now"


@rounds(1, 8)
async def test_calls_across_nodes_run_in_order_and_once_at_most_over_the_death_of_a_service(
    nodes: dict[str, RunningService], rounds: int
) -> None:
    a, b = nodes.values()
    await b.call("PUT", "/v1/workers/desk", 201)
    told = 0
    for number in range(rounds):
        for _ in range(5):
            values = list(range(told, told + 20))
            await call(a, "tell", "desk", *values, worker="near")
            told += 20
        killed = (a, b)[number % 2]
        await killed.kill()
        await killed.start()
        await wait_for(killed.is_ready, WAIT_S)
        await call(a, "tell", "desk", f"end {number}", worker="near")

        async def the_end_is_there(end: str = f"end {number}") -> bool:
            return end in await seen_by(b, "desk")

        await wait_for(the_end_is_there, WAIT_S)
    seen = [value for value in await seen_by(b, "desk") if isinstance(value, int)]
    print(f"{len(seen)} of {told} calls ran")
    assert seen == sorted(set(seen)), "in order, none twice"
