"""Waiting until a cluster has come to rest: all is in the log and read everywhere, and every node tells the same of what is open."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from tests.bench.chaos.feed import Feed
from tests.conftest import RunningService, wait_for

SETTLE_S = 150.0
STILL_S = 2.0
BEATS = 10  # messages that come while one node after the other is asked

Services = Mapping[str, RunningService]


async def until_rest(services: Services) -> None:
    """Wait until all that was committed is in the log, and read everywhere; start what was given up because its nodes died too often."""
    for name, service in services.items():
        await wait_for(service.is_ready, SETTLE_S, f"{name} is ready")

    async def is_at_rest() -> bool:
        told = [await service.get("/v1/cluster") for service in services.values()]
        last = max(one["log"]["last"] for one in told)
        behind = [
            one for one in told if one["log"]["pending"] or one["log"]["failure"] or one["log"]["last"] < last - BEATS
        ]
        return not behind and not any(one["unreplicated"]["additions"] for one in told)

    await wait_for(is_at_rest, SETTLE_S, "all is acknowledged and read")
    service = next(iter(services.values()))
    for worker in (await service.get("/v1/workers"))["workers"]:
        if worker["status"] == "Failed":
            await service.call("PUT", f"/v1/workers/{worker['name']}", None)


async def until_still(services: Services) -> None:
    """Wait until nothing comes any more: what a peer has sent may lie in sockets and queues for a while, on a machine that is busy."""
    before: dict[str, object] = {}

    async def is_still() -> bool:
        nonlocal before
        await asyncio.sleep(STILL_S)
        last, before = before, {name: await living_of(service) for name, service in services.items()}
        return before == last

    await wait_for(is_still, SETTLE_S, "nothing comes any more")
    await until_rest(services)


async def until_equal(services: Services, feed: Feed, kept: Collection[int]) -> None:
    """Wait until there are no `differences`."""

    async def is_equal() -> bool:
        return not await differences(services, feed, kept)

    await wait_for(is_equal, SETTLE_S, "all nodes tell the same, and the sockets, too")


async def differences(services: Services, feed: Feed, kept: Collection[int]) -> list[str]:
    """Return in what nodes' directories differ from each other, and from the sockets that there are. `kept`: what must be open."""
    told = {name: await living_of(service) for name, service in services.items()}
    (name, first), *others = told.items()
    wrong = []
    for other, found in others:
        ids = [one for one in first.keys() | found.keys() if first.get(one) != found.get(one)]
        wrong += [f"{one} is {first.get(one)} at {name} and {found.get(one)} at {other}" for one in ids[:2]]
    down = [one for one in kept if first.get(one, ("",))[0] != "Connected"]
    wrong += [f"{one}, which persists, is {first.get(one)}" for one in down[:3]]
    sockets = sum(len(held) for held in feed.sockets.values())
    if sockets != len(first):
        wrong.append(f"{len(first)} connections are told and {sockets} sockets are open")
    return wrong


async def living_of(service: RunningService) -> dict[int, tuple[Any, ...]]:
    """Return what a node tells of all connections that have not ended: status, node, worker, last event."""
    found: dict[int, tuple[Any, ...]] = {}
    after: int | None = 0
    while after is not None:
        page = await service.get(f"/v1/connections?limit=1000&after={after}")
        for one in page["connections"]:
            if one["status"] != "Closed":
                found[one["id"]] = one["status"], one["node"], one["worker"], one["lastEventId"]
        after = page.get("next")
    return found
