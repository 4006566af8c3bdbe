"""Heirs that are killed at one exact moment: the way to the engine closes with the message that says it, and then the heir dies."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from mooring.events import Kind
from mooring_service.cluster.claims import TOLD
from mooring_service.journal.batch import Claim
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.services import FOUND_S, PERSIST, Nodes, claims_of, kill, opened_at, until_open
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

COUNT = 5
WORKER = "desk"
ENDS, LOSSES = b'"errCode":305', b'"cause":"nodeLost"'


def claim(value: str) -> bytes:
    """What stands in a message that claims the worker, or says that all is told."""
    return msgspec.msgpack.encode(Claim("worker", WORKER, value))


async def open_all(service: RunningService, url: str) -> tuple[list[int], list[int]]:
    """Open what persists, and what does not."""
    kept = [(await service.open(url, worker=WORKER, **PERSIST))["id"] for _ in range(COUNT)]
    return kept, [(await service.open(url, worker=WORKER))["id"] for _ in range(COUNT)]


async def all_is_over(service: RunningService, kept: list[int], plain: list[int]) -> None:
    async def is_over() -> bool:
        stand = [(await service.get(f"/v1/connections/{one}"))["status"] for one in [*kept, *plain]]
        return stand == ["Connected"] * len(kept) + ["Closed"] * len(plain)

    await wait_for(is_over, 2 * FOUND_S)


@pytest.mark.parametrize("is_stored", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_an_heir_that_is_killed_at_its_claim_leaves_all_to_the_next(
    nodes: Nodes, ways: Callable[[], Proxies], is_stored: bool
) -> None:
    by_name = {name: ways() for name in "bc"}
    (a,) = await nodes.begin("a")
    for name, way in by_name.items():
        await nodes.begin(name, engine=way.urls)
    async with EchoServer() as echo:
        kept, plain = await open_all(a, echo.url)
        for name in "bc":
            await nodes.all[name].get(f"/v1/connections/{plain[-1]}")
        for way in by_name.values():
            way.trap(claim(""), passes=is_stored)
        await kill(a)
        first = await wait_for(lambda: next((name for name in "bc" if by_name[name].sprung), None), FOUND_S)
        await kill(nodes.all[first])
        for way in by_name.values():
            way.cut()
            way.pass_on()
        other = "cb"["bc".index(first)]
        await opened_at(nodes.all[other], kept[-1], other)
        await all_is_over(nodes.all[other], kept, plain)
        await until_open(COUNT, echo)
    rows = await nodes.check(given_up="abc")
    assert Counter(connection for _, connection, kind, _ in rows if kind == Kind.onTerminate) == dict.fromkeys(plain, 1)
    told = await claims_of(nodes.servers, nodes.cluster, WORKER)
    assert told[0] == ("a", "") and told[-1] == (other, TOLD)
    assert ((first, "") in told) is is_stored, "it died at its claim"
    assert (first, TOLD) not in told


@pytest.mark.parametrize(
    ("what", "is_stored"),
    [
        (ENDS, False),
        pytest.param(LOSSES, False, marks=pytest.mark.long),
        pytest.param(claim(TOLD), False, marks=pytest.mark.long),
        pytest.param(ENDS, True, marks=pytest.mark.long),
    ],
    ids=["ends", "losses", "told", "ends stored"],
)
async def test_an_heir_that_is_killed_between_its_commit_and_its_publish_tells_each_end_once(
    nodes: Nodes, ways: Callable[[], Proxies], what: bytes, is_stored: bool
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    way = ways()
    (a,) = await nodes.begin("a")
    (b,) = await nodes.begin("b", engine=way.urls)
    async with EchoServer() as echo:
        kept, plain = await open_all(a, echo.url)
        await b.get(f"/v1/connections/{plain[-1]}")
        way.trap(what, passes=is_stored)
        await kill(a)
        await wait_for(lambda: way.sprung, FOUND_S)
        await kill(b)
        way.cut()
        way.pass_on()
        await asyncio.sleep(random.Random(seed).uniform(0.0, 2.0))
        await b.start()  # nobody is there who could find it dead
        await all_is_over(b, kept, plain)
        await until_open(COUNT, echo)
    rows = await nodes.check(given_up="a")
    assert Counter(connection for _, connection, kind, _ in rows if kind == Kind.onTerminate) == dict.fromkeys(plain, 1)
    assert (await claims_of(nodes.servers, nodes.cluster, WORKER))[-1] == ("b", TOLD)
