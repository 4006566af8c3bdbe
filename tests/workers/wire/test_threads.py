"""Calls that may block for long, in threads of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from mooring.wire import threads as module
from mooring.wire.threads import Threads
from tests.conftest import wait_for


def none_is_left() -> bool:
    return not any(thread.name == "mooring dial" for thread in threading.enumerate())


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    await wait_for(none_is_left)  # of tests before that have given a name up
    made = Threads(4)
    yield made
    made.close()
    await wait_for(none_is_left)


async def test_a_result_and_an_exception_come_back(threads: Threads) -> None:
    assert await threads.run("a", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run("a", lambda: 1 // 0)


async def test_one_question_at_one_time_is_asked_once(threads: Threads) -> None:
    asked = []
    hold = threading.Event()

    def ask() -> int:
        asked.append(1)
        hold.wait(60)
        return len(asked)

    waiting = [asyncio.create_task(threads.run("same", ask)) for _ in range(50)]
    await wait_for(lambda: asked)
    waiting[0].cancel()
    hold.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 49
    assert await threads.run("same", ask) == 2, "afterwards it is asked anew"


async def test_a_question_that_is_stuck_is_asked_anew_after_a_while(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOIN_S", 0.05)
    hold = threading.Event()
    stuck = asyncio.create_task(threads.run("name", lambda: hold.wait(60)))
    await asyncio.sleep(0.1)
    assert await threads.run("name", lambda: "answer") == "answer"
    hold.set()
    assert await stuck is True


async def test_what_nobody_waits_for_is_not_begun_and_does_not_stand_in_the_way(threads: Threads) -> None:
    hold = threading.Event()
    begun = []
    stuck = [asyncio.create_task(threads.run(n, lambda: hold.wait(60))) for n in range(4)]
    await asyncio.sleep(0.05)
    given_up = [asyncio.create_task(threads.run(("later", n), lambda: begun.append(1))) for n in range(1_000)]
    await asyncio.sleep(0.05)
    for task in given_up:
        task.cancel()
    wanted = asyncio.create_task(threads.run(("later", 7), lambda: "asked again"))
    await asyncio.sleep(0)
    hold.set()
    assert await wanted == "asked again"
    await asyncio.gather(*stuck)
    assert begun == []


async def test_joining_giving_up_and_answering_at_one_time_lose_no_answer(threads: Threads) -> None:
    """The one who joins a call that was just given up gets its answer all the same."""
    for number in range(3_000):
        first = asyncio.create_task(threads.run("name", lambda: 5))
        await asyncio.sleep(0)
        first.cancel()
        if number % 2:
            await asyncio.sleep(0)
        assert await threads.run("name", lambda: 5) == 5
        await asyncio.gather(first, return_exceptions=True)


async def test_there_are_never_more_threads_than_allowed_and_idle_ones_end(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    most = 0

    def count() -> None:
        nonlocal most
        time.sleep(0.001)
        most = max(most, sum(thread.name == "mooring dial" for thread in threading.enumerate()))

    await asyncio.gather(*(threads.run(n, count) for n in range(200)))
    assert 1 <= most <= 4
    await wait_for(none_is_left)
    assert await threads.run("again", lambda: 1) == 1
