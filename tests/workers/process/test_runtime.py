"""What code in a worker asks of the service stays within bounds, and a worker that is told to end waits for none of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mooring import InvalidRequest, MooringError, call_worker, kill_worker
from mooring.link.messages import AskCall, AskKill
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from tests.conftest import wait_for
from tests.workers.bare_worker import Service, bare_worker

BOUND = 1024 * 1024
CALL = b"x" * 50_000
CALLS = 300  # 15 MB


def _in_context(runtime: Runtime, function: Any) -> asyncio.Future[Any]:
    """Have `function` run as a callback does; return the future of its result."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except MooringError as exc:
            result = exc
        loop.call_soon_threadsafe(done.set_result, result)

    runtime.context.post_task("callback", run)
    return done


def _call_often() -> int:
    for number in range(CALLS):
        call_worker("other", "store", number, CALL)
    return CALLS


async def _until_full(runtime: Runtime, done: asyncio.Future[Any]) -> None:
    await wait_for(lambda: runtime.outbox.full)
    await asyncio.sleep(0.05)  # what is not bounded goes on meanwhile
    assert not done.done()
    assert runtime.outbox.held_bytes < BOUND + 2 * len(CALL)


async def test_calls_of_one_callback_wait_for_room_and_arrive_in_order() -> None:
    service = Service()
    service.takes_frames = False
    async with bare_worker(service, outbox_bytes=BOUND) as runtime:
        done = _in_context(runtime, _call_often)
        await _until_full(runtime, done)
        service.takes_frames = True
        most = 0
        while not done.done():
            most = max(most, runtime.outbox.held_bytes)
            runtime.outbox.send_unsent()
            runtime.outbox.stored(runtime.outbox.number)
            await asyncio.sleep(0)
        assert most < BOUND + 2 * len(CALL)
        runtime.flush()
        asked = [ask.params[0] for events in service.frames for ask in events.asks if isinstance(ask, AskCall)]
        assert asked == list(range(CALLS))


async def test_a_callback_whose_calls_wait_keeps_no_worker_from_ending() -> None:
    service = Service()
    service.takes_frames = False
    async with bare_worker(service, outbox_bytes=BOUND) as runtime:
        done = _in_context(runtime, _call_often)
        await _until_full(runtime, done)
        await asyncio.wait_for(run_down(runtime, "killed", 0.2), 5)
        assert isinstance(done.result(), MooringError)
        assert "being killed" in str(done.result())


async def test_a_kill_is_asked_for_however_full_the_outbox_is() -> None:
    service = Service()
    service.takes_frames = False
    async with bare_worker(service, outbox_bytes=BOUND) as runtime:
        waiting = threading.Thread(target=_ignoring, args=(_call_often,), daemon=True)
        waiting.start()
        await wait_for(lambda: runtime.outbox.full)
        await asyncio.wait_for(asyncio.to_thread(kill_worker), 5)
        service.takes_frames = True
        runtime.outbox.send_unsent()
        await wait_for(lambda: any(ask == AskKill("test") for events in service.frames for ask in events.asks))


def _ignoring(function: Any) -> None:
    try:
        function()
    except MooringError:
        pass  # the worker ends while it waits


@pytest.mark.parametrize("function", ["", "\ud800", "x" * 64, 5])
async def test_what_is_no_public_name_is_not_called(function: Any) -> None:
    async with bare_worker(Service()):
        with pytest.raises(InvalidRequest):
            call_worker("other", function)
