"""Who has until a time has what had come by then, also if we were the ones who were away."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from mooring.deadline import within

TIMEOUT_S = 0.2
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def _run(make: Callable[[], asyncio.AbstractEventLoop], work: Any) -> Any:
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(work)


async def _read_late(late: bool) -> bytes:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)

        def stand_still() -> None:
            theirs.send(b"in time")
            time.sleep(2 * TIMEOUT_S)

        if not late:
            loop.call_later(TIMEOUT_S / 4, stand_still)
        async with within(TIMEOUT_S):
            return await loop.sock_recv(ours, 100)


@pytest.mark.parametrize("make", LOOPS)
def test_what_came_while_we_stood_still_is_read_before_anybody_is_judged(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    assert _run(make, _read_late(False)) == b"in time"


@pytest.mark.parametrize("make", LOOPS)
def test_who_says_nothing_is_over_in_time(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        _run(make, _read_late(True))
    assert time.monotonic() - begun >= TIMEOUT_S


async def test_what_ends_in_time_leaves_no_timer_and_its_own_errors_come_out() -> None:
    async with within(0.01) as at:
        assert at > asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    with pytest.raises(ZeroDivisionError):
        async with within(10):
            raise ZeroDivisionError
    async with within(-1.0):
        pass
