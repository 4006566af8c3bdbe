"""An open whose handler waits to be made has its connectTimeout all the same; what was given up never opens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from mooring.errors import ErrCode
from mooring.events import Kind
from mooring.link.messages import (
    Open,
    Opened,
    OpenFailed,
    OpenInvalid,
    Reconnect,
    ReconnectDone,
    Terminate,
    TerminateDone,
)
from mooring.link.messages_sent import DropQueue, QueueDropped, Send, SendFailed, SendQueued
from mooring.options import ConnectionRequest, HandlerRequest
from mooring.process.commands import obey
from mooring.process.runtime import Runtime
from tests.conftest import wait_for
from tests.servers import EchoServer
from tests.workers.bare_worker import Service, bare_worker

made: list[str] = []
CLOCK_S = 0.01  # what the clock of a loop may differ from ours


class Quick:
    def __init__(self) -> None:
        made.append("quick")


class Slow:
    released = threading.Event()

    def __init__(self) -> None:
        Slow.released.wait(60)
        made.append("slow")


class Patient(Quick):
    connect_timeout = 20


class Thorough(Patient):
    recipe = {"opening": [{"send": "a", "expect": "a", "timeout": 60}, {"send": "b", "expect": "b", "timeout": 7}]}


@contextmanager
def blocked(runtime: Runtime) -> Iterator[threading.Event]:
    """Keep the context busy until the event is set, at the latest until the end."""
    released = threading.Event()
    runtime.context.post_task("blocks", lambda: released.wait(60) and None)
    try:
        yield released
    finally:
        released.set()


def _open(runtime: Runtime, url: str, handler: str, **options: Any) -> float:
    """Have connection 1 opened for request 7; return when that has begun."""
    made.clear()
    request = ConnectionRequest(url=url, handler=HandlerRequest(handler), **options)
    begun = time.monotonic()
    obey(runtime, Open(7, 1, request, f"{__name__}:{handler}"))
    return begun


async def _answer(service: Service) -> object:
    await wait_for(lambda: service.answers)
    (answer,) = service.answers
    return answer


def _events(service: Service) -> list[int]:
    return [kind for events in service.frames for kind in events.kinds]


async def test_an_open_behind_a_blocked_callback_is_answered_when_its_time_is_over_and_never_dialled(
    echo: EchoServer,
) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime):
            begun = _open(runtime, echo.url, "Quick", connect_timeout=0.4)
            answer = await _answer(service)
            assert 0.4 <= time.monotonic() - begun < 30, "it has not waited for the callback"
            assert isinstance(answer, OpenFailed) and answer.request == 7 and answer.timed_out
            assert answer.errors[0].err_code == ErrCode.CONNECT_TIMEOUT
            assert _events(service) == [Kind.onError, Kind.onTerminate]
            assert not runtime.constructions and not runtime.connections
        done = asyncio.Event()
        runtime.context.post_task("last", lambda: runtime.post(done.set))
        await asyncio.wait_for(done.wait(), 60)
        assert made == [] and echo.handshakes == 0
        assert len(service.answers) == 1


async def test_a_handler_whose_making_takes_longer_is_not_dialled_for(echo: EchoServer) -> None:
    service = Service()
    Slow.released.clear()
    async with bare_worker(service) as runtime:
        _open(runtime, echo.url, "Slow", connect_timeout=0.3)
        answer = await _answer(service)
        assert isinstance(answer, OpenFailed) and answer.timed_out
        Slow.released.set()
        await wait_for(lambda: made)
        done = asyncio.Event()
        runtime.context.post_task("last", lambda: runtime.post(done.set))
        await asyncio.wait_for(done.wait(), 60)
        assert echo.handshakes == 0 and len(service.answers) == 1


async def test_the_dial_has_what_the_making_of_the_handler_has_left(echo: EchoServer) -> None:
    async with bare_worker(Service()) as runtime:
        with blocked(runtime) as released:
            begun = _open(runtime, f"{echo.url}slow?s=30", "Quick", connect_timeout=60)
            await asyncio.sleep(0.6)
            released.set()
            await wait_for(lambda: runtime.connections)
            left_s = runtime.connections[1].options.connect_timeout_s
            assert 60 - (time.monotonic() - begun) - CLOCK_S <= left_s <= 60 - 0.6 + CLOCK_S
        runtime.connections[1].terminate(None, None)


async def test_a_handler_that_is_made_in_time_may_ask_for_more(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        begun = _open(runtime, f"{echo.url}slow?s=30", "Patient")
        await wait_for(lambda: runtime.connections)
        left_s = runtime.connections[1].options.connect_timeout_s
        assert 20 - (time.monotonic() - begun) - CLOCK_S <= left_s <= 20
        runtime.connections[1].terminate(None, None)


@pytest.mark.parametrize("how", ["terminated", "link lost"])
async def test_what_ends_otherwise_meanwhile_is_not_told_twice(echo: EchoServer, how: str) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime):
            _open(runtime, echo.url, "Quick", connect_timeout=0.2)
            if how == "terminated":
                obey(runtime, Terminate(8, 1))
                await wait_for(lambda: {type(answer) for answer in service.answers} == {OpenFailed, TerminateDone})
            else:
                runtime.link_lost()
            await wait_for(lambda: len(_events(service)) == 2)
            await asyncio.sleep(0.4)
            assert _events(service) == [Kind.onError, Kind.onTerminate]
            assert len(service.answers) == (2 if how == "terminated" else 0)


async def test_a_handler_that_fails_once_nobody_waits_for_the_answer_is_what_the_events_say(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime):
            _open(runtime, echo.url, "NoSuchHandler")
            runtime.link_lost()
        await wait_for(lambda: len(_events(service)) == 2)
        assert _events(service) == [Kind.onError, Kind.onTerminate] and not service.answers
        (errors,) = [update.errors for events in service.frames for update in events.updates if update.errors]
        assert [error.err_code for error in errors] == [ErrCode.HANDLER_FAILED]


async def test_what_waits_for_its_handler_counts_for_the_limit_of_the_worker(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service, max_connections=2) as runtime:
        with blocked(runtime):
            for number in (1, 2, 3):
                request = ConnectionRequest(url=echo.url, handler=HandlerRequest("Quick"))
                obey(runtime, Open(number, number, request, f"{__name__}:Quick"))
            obey(runtime, Open(4, 4, ConnectionRequest(url=echo.url)))
            refused = [answer for answer in service.answers if isinstance(answer, OpenInvalid)]
            assert [(answer.request, answer.limit) for answer in refused] == [(3, 2), (4, 2)]
        await wait_for(lambda: len(service.answers) == 4)
        assert sorted(runtime.connections) == [1, 2]


async def test_an_open_whose_handler_is_made_at_once_is_not_kept_from_its_dial(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        _open(runtime, echo.url, "Quick", connect_timeout=60)
        assert isinstance(await _answer(service), Opened)


QUEUES: dict[str, Any] = {"reconnect": True, "when_down": "queue"}


class Cannot:
    def __init__(self) -> None:
        raise RuntimeError("no")


def _send(runtime: Runtime, request: int, text: str, when_down: Literal["fail", "queue"] | None = None) -> None:
    obey(runtime, Send(request, 1, False, [text.encode()], when_down=when_down))


async def test_messages_wait_for_a_handler_as_for_a_socket(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime):
            _open(runtime, echo.url, "Quick", **QUEUES)
            _send(runtime, 8, "one")
            _send(runtime, 9, "two")
            _send(runtime, 10, "never", when_down="fail")
            one, two, never = service.answers
            assert isinstance(one, SendQueued) and (one.queue_id, one.bytes) == (1, 3)
            assert isinstance(two, SendQueued) and two.queue_id == 2 and two.after == runtime.outbox.number
            assert never == SendFailed(10, 0, "Connecting")
            kept = service.frames[-1].updates[-1].kept
            assert kept is not None and (kept.queued_messages, kept.queued_bytes, kept.queue_id) == (2, 6, 2)
            assert runtime.held()[0].update == service.frames[-1].updates[-1], "an adopting service hears of them"
        await wait_for(lambda: echo.peers and echo.peers[0].received == ["one", "two"])
        assert runtime.metrics.queued_messages == 0


@pytest.mark.parametrize("how", ["terminated", "cannot be made", "too late"])
async def test_what_has_waited_for_a_handler_in_vain_is_told(echo: EchoServer, how: str) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime) as released:
            handler = "Cannot" if how == "cannot be made" else "Quick"
            timeouts = {"connect_timeout": 0.3} if how == "too late" else {}
            _open(runtime, echo.url, handler, **QUEUES, **timeouts)
            _send(runtime, 8, "kept")
            obey(runtime, DropQueue(9, 1))
            dropped = service.answers[-1]
            assert isinstance(dropped, QueueDropped) and (dropped.messages, dropped.bytes) == (1, 4)
            _send(runtime, 10, "lost")
            if how == "terminated":
                obey(runtime, Terminate(11, 1))
            elif how == "cannot be made":
                released.set()
            await wait_for(lambda: Kind.onTerminate in _events(service))
        assert _events(service) == [Kind.onUnsent, Kind.onUnsent, Kind.onError, Kind.onTerminate]
        assert [answer for answer in service.answers if isinstance(answer, OpenFailed)]
        assert echo.handshakes == 0


async def test_who_asks_for_a_new_socket_meanwhile_gets_the_first(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        with blocked(runtime):
            _open(runtime, echo.url, "Quick", reconnect=True)
            obey(runtime, Reconnect(8, 1))
            assert service.answers == [ReconnectDone(8, 0, "Connecting")]
        await wait_for(lambda: echo.peers)
        assert echo.handshakes == 1


async def test_the_record_says_how_long_an_attempt_takes_as_its_handler_wants_it(echo: EchoServer) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        begun = _open(runtime, echo.url, "Thorough")
        await wait_for(lambda: any(isinstance(answer, Opened) for answer in service.answers))
        (created,) = [created for frame in service.frames for created in frame.created]
        whole_s = 20 + 60 + 7
        assert whole_s - (time.monotonic() - begun) - CLOCK_S <= created.attempt_s <= whole_s, (
            "connectTimeout less what the making took, and both steps"
        )
