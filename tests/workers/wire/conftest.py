"""What the tests of the wire share: both loops, certificates, and a look at the descriptors of this process."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.certificates import Files, make_files

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def _sockets() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            pass
    return {(name, target) for name, target in found if target.startswith("socket:")}


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on each kind of loop; at the end of it no socket may be left."""
    before = _sockets()

    async def to_the_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await asyncio.wait_for(coroutine, 100)
        finally:
            # A loop of libuv that is closed in the middle of closing a socket closes it once more, whose ever it is then: each
            # end leads to one of the other side in a later pass, however late the timers are.
            for _ in range(20):
                await asyncio.sleep(0.0025)

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(to_the_end(coroutine))

    yield run
    gc.collect()
    deadline = time.monotonic() + 30
    # A thread that still looks a name up, for a dial that was given up, has some for a moment.
    while left := _sockets() - before:
        assert time.monotonic() < deadline, f"sockets are left open: {left}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"), "feed.test", "proxy.test")
