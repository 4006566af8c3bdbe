"""Connection ids for what code in a worker opens, when more want one than there are, and some give up."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from mooring.errors import MooringError
from mooring.options import ConnectionRequest
from mooring.process.ids import ConnectionIds
from tests.conftest import wait_for
from tests.servers import EchoServer
from tests.workers.bare_worker import Service, bare_worker

GIVE_UP = 300
BLOCK = 256


async def test_opens_that_have_given_up_keep_no_id_from_those_that_still_wait(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:

        def open_one(connect_timeout: float) -> str:
            request = ConnectionRequest(url=echo.url, connect_timeout=connect_timeout)
            try:
                return runtime.open(request, None).state.value
            except MooringError as exc:
                return str(exc)

        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(GIVE_UP) as threads:
            given_up = await asyncio.gather(
                *(loop.run_in_executor(threads, open_one, 0.05) for _ in range(GIVE_UP)),
            )
            assert {text.partition(":")[0] for text in given_up} == {"no connection id"}
            live = [loop.run_in_executor(threads, open_one, 100.0) for _ in range(BLOCK + 20)]
            runtime.grant_ids(1, BLOCK)
            await wait_for(lambda: len(runtime.connections) == BLOCK)
            runtime.grant_ids(1 + BLOCK, BLOCK)
            assert await asyncio.gather(*live) == ["Connected"] * len(live)
        assert sorted(runtime.connections) == list(range(1, BLOCK + 21)), "those that gave up have taken none"


def test_a_block_that_does_not_reach_is_followed_by_a_further_ask() -> None:
    asked: list[int] = []
    ids = ConnectionIds(lambda: asked.append(1))
    futures: list[Future[int]] = [Future() for _ in range(500)]
    for future in futures:
        ids.want(future)
    for future in futures[:300]:
        future.cancel()
    asked.clear()
    ids.grant(1, 100)
    assert [future.result(0) for future in futures[300:400]] == list(range(1, 101))
    assert asked, "one hundred still wait"
    ids.grant(101, 131)
    assert [future.result(0) for future in futures[400:]] == list(range(101, 201))
    assert len(asked) == 2, "31 are left"
    ids.grant(300, 256)
    assert len(asked) == 2
    assert not futures[400].cancel(), "who has got one does not give up any more"
