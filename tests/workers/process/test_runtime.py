"""What code in a worker asks of the service stays within bounds, and a worker that is told to end waits for none of it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mooring import ConnectError, InvalidRequest, MooringError, call_worker, kill_worker
from mooring.connection.live import LiveConnection
from mooring.errors import ErrCode, LimitReached
from mooring.kept_options import KeepAliveRequest
from mooring.link.messages import AskCall, AskKill
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.process import openings
from mooring.process import runtime as runtime_module
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from tests.conftest import rounds, wait_for
from tests.servers import EchoServer
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
        await asyncio.wait_for(run_down(runtime, "killed", 0.2), 60)
        told = await asyncio.wait_for(done, 60)
        assert isinstance(told, MooringError)
        assert "being killed" in str(told)


async def test_a_kill_is_asked_for_however_full_the_outbox_is() -> None:
    service = Service()
    service.takes_frames = False
    async with bare_worker(service, outbox_bytes=BOUND) as runtime:
        waiting = threading.Thread(target=_ignoring, args=(_call_often,), daemon=True)
        waiting.start()
        await wait_for(lambda: runtime.outbox.full)
        await asyncio.wait_for(asyncio.to_thread(kill_worker), 60)
        service.takes_frames = True
        runtime.outbox.send_unsent()
        await wait_for(lambda: any(ask == AskKill("test") for events in service.frames for ask in events.asks))


@rounds(3, 200)
async def test_what_a_thread_that_code_has_left_behind_asks_for_is_handed_over_or_refused(rounds: int) -> None:
    for _ in range(rounds):
        service, over, asked = Service(), threading.Event(), 0

        def ask(runtime: Runtime, over: threading.Event) -> None:
            nonlocal asked
            try:
                while not over.wait(0.0005):
                    runtime.ask_call(AskCall("other", "store", [asked]), 0)
                    asked += 1
            except MooringError:
                pass

        async with bare_worker(service) as runtime:
            left_behind = threading.Thread(target=ask, args=(runtime, over), daemon=True)
            left_behind.start()
            await wait_for(lambda service=service: service.frames)
        await asyncio.sleep(0.01)  # it may go on
        over.set()
        await asyncio.to_thread(left_behind.join, 60)
        told = [ask.params[0] for events in service.frames for ask in events.asks if isinstance(ask, AskCall)]
        assert told == list(range(asked))
        with pytest.raises(MooringError, match="has ended"):
            runtime.kill("other")


def _ignoring(function: Any) -> None:
    try:
        function()
    except MooringError:
        pass  # the worker ends while it waits


class NeverEnds:
    """A dialler that keeps no time."""

    async def dial(self, options: ConnectionOptions) -> Any:
        await asyncio.sleep(60)

    async def close(self) -> None:
        pass


async def test_a_connection_that_whoever_opens_it_waits_for_no_longer_does_not_open_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openings, "IO_LOOP_S", 0.1)
    async with bare_worker(Service()) as runtime:
        monkeypatch.setattr(runtime, "dialler", NeverEnds())
        runtime.grant_ids(1, 256)
        with pytest.raises(ConnectError) as told:
            await asyncio.to_thread(runtime.open, ConnectionRequest(url="ws://x/", connect_timeout=0.1), None)
        assert told.value.errors[0].err_code == ErrCode.CONNECT_TIMEOUT
        await wait_for(lambda: not runtime.connections)


async def test_threads_that_open_at_once_open_no_more_than_the_limit(echo: EchoServer) -> None:
    async with bare_worker(Service(), max_connections=5) as runtime:
        runtime.grant_ids(1, 256)

        def open_one() -> str:
            try:
                return runtime.open(ConnectionRequest(url=f"{echo.url}slow?s=0.3"), None).state.value
            except LimitReached as exc:
                return f"at most {exc.limit}"

        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(20) as many:
            found = await asyncio.gather(*(loop.run_in_executor(many, open_one) for _ in range(20)))
        assert sorted(found) == ["Connected"] * 5 + ["at most 5"] * 15


@pytest.mark.parametrize("function", ["", "\ud800", "x" * 64, 5])
async def test_what_is_no_public_name_is_not_called(function: Any) -> None:
    async with bare_worker(Service()):
        with pytest.raises(InvalidRequest):
            call_worker("other", function)


async def test_callbacks_wait_for_room_in_the_outbox_and_go_on_as_soon_as_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_module, "LOOK_S", 600)  # nothing else wakes the context
    service = Service()
    service.takes_frames = False
    async with bare_worker(service, outbox_bytes=BOUND) as runtime:
        ran: list[int] = []
        for round_ in range(3):
            runtime.outbox.ask(AskCall("other", "store", [b"x" * 2 * BOUND]), 2 * BOUND)
            runtime.flush()
            assert runtime.outbox.full
            runtime.context.post_task("waits", lambda round_=round_: ran.append(round_))
            await asyncio.sleep(0.05)
            assert len(ran) == round_
            runtime.outbox.stored(runtime.outbox.number)
            await wait_for(lambda round_=round_: len(ran) == round_ + 1)


async def test_while_the_service_holds_all_that_it_may_code_opens_nothing(echo: EchoServer) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 8)
        request = ConnectionRequest(url=echo.url)
        runtime.full_at = 7
        with pytest.raises(LimitReached, match=r"limits\.max_connections = 7"):
            await asyncio.to_thread(runtime.open, request, None)
        assert not runtime.connections
        runtime.full_at = 0
        assert (await asyncio.to_thread(runtime.open, request, None)).id == 1


class Silent:
    """A handler."""


@pytest.mark.parametrize("what", ["a handler", "a recipe", "a dial", "a call", "the end"])
async def test_a_worker_that_does_more_than_receive_does_not_rest(what: str, echo: EchoServer) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 10)

        async def opened(request: ConnectionRequest, handler: object | None = None) -> LiveConnection:
            return await asyncio.to_thread(runtime.open, request, handler)

        await opened(ConnectionRequest(url=echo.url))
        await wait_for(lambda: runtime.only_receives)
        more: LiveConnection | None = None
        release = threading.Event()
        match what:
            case "a handler":
                more = await opened(ConnectionRequest(url=echo.url), Silent())
            case "a recipe":
                heartbeat = KeepAliveRequest(send="beat", interval=1_000)
                more = await opened(ConnectionRequest(url=echo.url, keep_alive=heartbeat))
            case "a dial":
                runtime.spawn(asyncio.to_thread(release.wait, 60))
            case "a call":
                for _ in range(2):  # one that runs, and one that waits
                    runtime.context.post_task("callback", lambda: release.wait(60) and None)
            case "the end":
                runtime.stopping = True
        assert not runtime.only_receives
        release.set()
        if more is not None:
            more.terminate(None, None)
        runtime.stopping = False
        await wait_for(lambda: runtime.only_receives)
