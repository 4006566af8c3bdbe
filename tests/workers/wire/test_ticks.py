"""Timers that are shared: never early, hardly late, and no stall of the loop however many are due."""

from __future__ import annotations

import asyncio
import math
import random
import time

import pytest

from mooring.wire import ticks
from mooring.wire.ticks import GRAIN_S, SHARE, Ticks, tick_of
from tests.conftest import wait_for


def test_a_tick_is_never_early_and_late_by_a_small_part_of_the_wait() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for _ in range(10_000):
        now = chosen.random() * 1e6
        wait_s = 10 ** chosen.uniform(-2.5, 4)
        late_s = tick_of(now + wait_s, wait_s) - (now + wait_s)
        assert -1e-9 <= late_s <= max(min(GRAIN_S, wait_s / SHARE), 0.001) + 1e-6


def test_pings_of_connections_that_were_opened_one_after_the_other_share_few_ticks() -> None:
    opened = [1_000 + at * 0.0015 for at in range(20_000)]  # within 30 s, as they were opened
    assert len({tick_of(at + 30, 30) for at in opened}) <= math.ceil(30 / GRAIN_S) + 1


def clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    """Return one by which all is asked for at one time, however long that takes: so all that is due at one time shares a tick."""
    loop = asyncio.get_running_loop()
    clock = Ticks(loop)
    now = loop.time()
    monkeypatch.setattr(clock, "time", lambda: now)
    return clock


async def test_all_are_called_but_those_that_are_cancelled_meanwhile_and_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = clock_that_stands_still(monkeypatch)
    called: list[int] = []
    at = clock.time() + 0.2
    cancelled = clock.call_at(at, lambda: called.append(-1))
    handles = []

    def first() -> None:
        called.append(0)
        handles[0].cancel()

    clock.call_at(at, first)
    handles.append(clock.call_at(at, lambda: called.append(-2)))
    cancelled.cancel()
    for number in range(1, 2_000):
        clock.call_at(at, lambda number=number: called.append(number))  # type: ignore[misc]
    await wait_for(lambda: len(called) == 2_000)
    assert called == list(range(2_000)) and asyncio.get_running_loop().time() >= at - 0.001
    assert clock._ticks == {}, "nothing is left of a tick"


async def test_what_is_due_at_one_time_leaves_the_loop_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "PASS", 10)
    clock = clock_that_stands_still(monkeypatch)
    called = passes = 0

    def slow() -> None:
        nonlocal called
        called += 1
        time.sleep(0.0005)

    at = clock.time() + 0.05
    for _ in range(200):
        clock.call_at(at, slow)
    while called < 200:
        await asyncio.sleep(0)
        passes += 0 < called < 200
    assert passes >= 15


async def test_a_callback_that_raises_holds_up_none_of_those_that_share_its_tick_or_join_it_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    clock = clock_that_stands_still(monkeypatch)
    called: list[str] = []
    wrong = ValueError("wrong")

    def raises() -> None:
        clock.call_at(at, lambda: called.append("joined"))
        raise wrong

    at = clock.time() + 0.05
    clock.call_at(at, raises)
    clock.call_at(at, lambda: called.append("behind it"))
    await wait_for(lambda: len(called) == 2)
    assert called == ["behind it", "joined"]
    assert told == [wrong], "the loop tells of it"
    assert clock._ticks == {}, "nothing is left of a tick"
    clock.call_at(at, raises)  # the last one of its tick
    await wait_for(lambda: len(called) == 3)
    assert told == [wrong, wrong]
