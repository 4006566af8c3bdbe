"""The context and user code that is wrong, cancels, asks for the end, or leaves things behind; with the test kit."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from mooring import InvalidRequest, call_worker, kill_worker
from mooring.link.messages import Call
from mooring.parameters import MAX_DEPTH, MAX_PARAMS_BYTES
from mooring.process import stopping
from mooring.testing import LocalWorker, Server, ServerConnection
from tests.conftest import wait_for
from tests.workers.bare_worker import Service, bare_worker


def kinds(worker: LocalWorker) -> list[str]:
    return [event["kind"] for event in worker.events]


async def counts_to_five(connection: ServerConnection) -> None:
    for number in range(1, 6):
        await connection.send(str(number))
    await connection.receive()


class NoMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a message")


class PropertyRaises:
    @property
    def on_message(self) -> Any:
        raise LookupError("no on_message today")

    @property
    def on_terminate(self) -> Any:
        raise LookupError("no on_terminate today")


class SaysNothing(type):
    """A metaclass whose classes say nothing of themselves."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise LookupError(name)
        return super().__getattribute__(name)


class Text(str):
    def encode(self, *args: object) -> bytes:
        raise SystemExit("text that is none")


class OddMessage(Exception):
    def __str__(self) -> str:
        return Text("odd")


def exception_of(name: str) -> type[Exception]:
    class NoName(NoMessage, metaclass=SaysNothing):
        __qualname__ = "NoName"
        __notes__ = property(lambda self: 1 / 0)
        __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
        __traceback__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    return {"NoMessage": NoMessage, "OddMessage": OddMessage}.get(name, NoName)


def raises(exception: str) -> type:
    class Handler(metaclass=SaysNothing):
        def on_open(self, ws, event) -> None:
            raise exception_of(exception)

        on_message = on_terminate = on_open

    return Handler


@pytest.mark.parametrize("exception", ["LookupError", "NoMessage", "NoName", "OddMessage"])
def test_whatever_a_callback_is_made_of_each_message_and_the_end_are_recorded(exception: str) -> None:
    handler = PropertyRaises if exception == "LookupError" else raises(exception)
    with Server(counts_to_five) as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler())
        worker.wait_for("onMessage", 5)
        ws.terminate()
        worker.wait_for("onTerminate")
        events = worker.events
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["event"]["data"] for event in events if event["kind"] == "onMessage"] == ["1", "2", "3", "4", "5"]
    errors = [event["event"] for event in events if event["kind"] == "callbackError"]
    assert len(errors) >= 5
    assert {error["exception"] for error in errors} == {exception}
    assert all(error["message"] and error["traceback"] for error in errors)


class Ends(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise SystemExit("a filter of user code")


def test_what_user_code_does_to_the_log_ends_no_context() -> None:
    log = logging.getLogger("mooring.context")
    ends = Ends()
    with Server(counts_to_five) as server, LocalWorker() as worker:
        log.addFilter(ends)
        try:
            worker.open(server.url, raises("NoMessage")())
            worker.wait_for("onMessage", 5)
        finally:
            log.removeFilter(ends)
        assert kinds(worker).count("callbackError") == 6


@pytest.mark.parametrize("exception", ["NoMessage", "NoName", "OddMessage"])
async def test_a_call_that_raises_what_cannot_be_told_is_answered(
    exception: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise exception_of(exception)

    monkeypatch.setitem(globals(), "fails", fails)
    service = Service()
    async with bare_worker(service) as runtime:
        for number in (1, 2):
            runtime.mailbox.post_call(Call(number, "fails", f"{__name__}:fails", []))
        await wait_for(lambda: len(service.answers) == 2)
    assert {(answer.exception, answer.invalid) for answer in service.answers} == {(exception, False)}


def test_a_callback_that_is_exchanged_counts_from_the_next_message() -> None:
    got: list[tuple[str, str]] = []

    class Handler:
        def on_message(self, ws, event) -> None:
            got.append(("first", event.data))
            self.on_message = lambda ws, event: got.append(("then", event.data))

    with Server(counts_to_five) as server, LocalWorker() as worker:
        worker.open(server.url, Handler())
        worker.wait_for("onMessage", 5)
    assert got == [("first", "1"), *(("then", str(number)) for number in range(2, 6))]


class Cancels:
    """Cancels its own callback, and looks whether the task that it has started goes on."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.ticks = 0
        self.got: list[str] = []

    async def on_open(self, ws, event) -> None:
        self.task = asyncio.create_task(self.tick())

    async def tick(self) -> None:
        while True:
            self.ticks += 1
            await asyncio.sleep(0.001)

    async def on_message(self, ws, event) -> None:
        self.got.append(event.data)
        task = asyncio.current_task()
        assert task is not None
        if event.data == "2":
            task.cancel()
            if self.how == "awaited":
                await asyncio.sleep(10)
            elif self.how == "twice, and swallowed":
                task.cancel()
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    pass


@pytest.mark.parametrize(("how", "errors"), [("awaited", 1), ("not awaited", 0), ("twice, and swallowed", 0)])
def test_a_callback_that_cancels_itself_ends_nothing_but_itself(how: str, errors: int) -> None:
    handler = Cancels(how)
    with Server(counts_to_five) as server, LocalWorker() as worker:
        worker.open(server.url, handler)
        worker.wait_for("onMessage", 5)
        ticks = handler.ticks
        deadline = time.monotonic() + 60
        while handler.ticks == ticks and time.monotonic() < deadline:
            time.sleep(0.01)
        assert handler.ticks > ticks, "its tasks go on, in the same loop"
        assert kinds(worker).count("callbackError") == errors
    assert handler.got == ["1", "2", "3", "4", "5"]


def test_nothing_runs_after_the_item_in_which_a_worker_kills_itself() -> None:
    got: list[str] = []

    class Handler:
        def on_message(self, ws, event) -> None:
            got.append(event.data)
            kill_worker()
            got.append("the running item ends")

        def on_terminate(self, ws, event) -> None:
            got.append("terminate")

    with Server(counts_to_five) as server, LocalWorker() as worker:
        ws = worker.open(server.url, Handler())
        worker.wait_for("onMessage")
        worker.call(lambda: None)
        ws.terminate()
        worker.wait_for("onTerminate")
        assert worker.kills == ["test"]
    assert got == ["1", "the running item ends", "terminate"]


def test_what_user_code_leaves_behind_holds_the_end_for_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    waits: list[float] = []
    real = stopping.within

    def within(timeout_s: float) -> AbstractAsyncContextManager[float, None]:
        waits.append(timeout_s)
        return real(timeout_s)

    monkeypatch.setattr(stopping, "within", within)

    async def never_ends() -> None:
        while not released.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass

    class Handler:
        async def on_open(self, ws, event) -> None:
            asyncio.get_running_loop().run_in_executor(None, released.wait, 100)
            self.task = asyncio.create_task(never_ends())

    try:
        with Server() as server, LocalWorker() as worker:
            worker.open(server.url, Handler())
            worker.wait_for("onOpen")
            begun = time.monotonic()
        assert waits == [1.0]
        assert time.monotonic() - begun < 50, "one holds it for a hundred seconds, the other for ever"
        assert kinds(worker) == ["onOpen", "onTerminate"]
    finally:
        released.set()


def test_a_connection_that_fails_right_after_it_has_opened_was_opened() -> None:
    async def script(connection: ServerConnection) -> None:
        connection.abort()

    with Server(script) as server, LocalWorker() as worker:
        for _ in range(20):
            worker.open(server.url)  # never a ConnectError: that is for dials
        worker.wait_for("onTerminate", 20)
    assert kinds(worker).count("onOpen") == 20


def _nested(depth: int) -> Any:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64, "64 bits"),
        ("\ud800", "surrogate"),
        ("x" * MAX_PARAMS_BYTES, "at most 16777216"),
        (_nested(MAX_DEPTH), "100 deep"),
        (_nested(100_000), "100 deep"),
        ({"a": [{"b": _nested(MAX_DEPTH)}]}, "100 deep"),
    ],
    ids=["integer", "surrogate", "size", "depth", "recursion", "depth in dicts"],
)
def test_parameters_that_the_other_worker_could_not_read_are_refused(value: Any, text: str) -> None:
    with LocalWorker() as worker:
        with pytest.raises(InvalidRequest, match=text):
            call_worker("other", "store", value)
        with pytest.raises(TypeError):
            call_worker("other", "store", object())
        call_worker("other", "store", _nested(90), {"k": [b"\xff", 2**64 - 1, None]})
        worker.call(lambda: None)
        assert worker.calls == [("other", "store", [_nested(90), {"k": [b"\xff", 2**64 - 1, None]}])]


@pytest.mark.parametrize("name", ["", "a/b", 5, None])
def test_a_name_that_is_not_a_workers_is_refused(name: Any) -> None:
    with LocalWorker() as worker:
        with pytest.raises(InvalidRequest):
            call_worker(name, "store")
        if name is not None:
            with pytest.raises(InvalidRequest):
                kill_worker(name)
        assert worker.calls == worker.kills == []


class Late(Exception):
    """What a library for timeouts sets into the thread that is too slow."""


def _set_into_the_idle_context(worker: LocalWorker, exception: type[BaseException]) -> None:
    context = worker._runtime.context
    deadline = time.monotonic() + 60
    while not context.mailbox.idle:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.02)  # it waits in the system
    ident = ctypes.c_ulong(context.thread._thread.ident or 0)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(exception)) == 1


@pytest.mark.parametrize("exception", [Late, SystemExit, KeyboardInterrupt])
def test_an_exception_that_is_set_into_the_idle_thread_keeps_nothing_from_running(
    exception: type[BaseException],
) -> None:
    with Server(counts_to_five) as server, LocalWorker() as worker:
        for _ in range(3):
            worker.call(lambda: None)
            _set_into_the_idle_context(worker, exception)
            assert worker.call(lambda: "ran") == "ran"
        worker.open(server.url, raises("NoMessage")())
        worker.wait_for("onMessage", 5)
        assert kinds(worker).count("onMessage") == 5
