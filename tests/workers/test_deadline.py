"""Who has until a time has what had come by then, also if we were the ones who were away."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from mooring import deadline
from mooring.connection.catching_up import catch_up
from mooring.connection.recipe import CatchUp
from mooring.deadline import PASS_S, first_of, result_of, within

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
    began = asyncio.get_running_loop().time()
    async with within(0.01) as at:
        assert at >= began + 0.01
    await asyncio.sleep(0.1)
    with pytest.raises(ZeroDivisionError):
        async with within(10):
            raise ZeroDivisionError
    async with within(-1.0):
        pass


async def _first_of_late() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        read = asyncio.ensure_future(loop.sock_recv(ours, 100))
        silent: asyncio.Future[bytes] = loop.create_future()

        def stand_still() -> None:
            theirs.send(b"in time")
            time.sleep(2 * TIMEOUT_S)

        loop.call_later(TIMEOUT_S / 4, stand_still)
        assert await first_of((read, silent), TIMEOUT_S) == {read} and read.result() == b"in time"
        assert await first_of((silent,), 0.01) == set()


@pytest.mark.parametrize("make", LOOPS)
def test_the_first_of_several_is_seen_although_we_stood_still(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    _run(make, _first_of_late())


def test_another_thread_than_the_loops_waits_for_one_pass_more_and_hears_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    future: futures.Future[str] = futures.Future()
    saying = threading.Timer(PASS_S / 4, future.set_result, ["said"])
    with monkeypatch.context() as patient:
        patient.setattr(deadline, "PASS_S", 60.0)  # of a loop that is as slow as the machine
        saying.start()
        assert result_of(future, 0.0) == "said"
    saying.join()
    with pytest.raises(TimeoutError):
        result_of(futures.Future(), 0.01)
    future = futures.Future()
    future.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        result_of(future, 10.0)


class _Filled:
    def __init__(self) -> None:
        self.found: list[object] = []

    def fill_in(self, items: Iterable[object]) -> None:
        self.found.extend(items)

    def catch_up_failed(self, exc: BaseException) -> None:
        self.found.append(exc)


@pytest.mark.parametrize("late_s", [PASS_S / 4, 10.0])
async def test_what_a_function_fetched_while_we_stood_still_is_taken(late_s: float) -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()
    loop.call_later(late_s, answer.set_result, ["missed"])
    host: Any = SimpleNamespace(run_code=lambda *_: answer)  # the other thread, which has ended while nobody looked
    filled = _Filled()
    event: Any = {}
    await catch_up(host, host, filled, CatchUp("f", [], 0.0), event)
    if late_s < PASS_S:
        assert filled.found == ["missed"]
    else:
        assert [type(one) for one in filled.found] == [TimeoutError]
