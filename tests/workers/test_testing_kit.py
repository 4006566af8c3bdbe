"""The test kit for handlers, as a handler's author uses it; and the examples, with it."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from mooring import ConnectError, call_worker, kill_worker
from mooring.testing import LocalWorker, Server, ServerConnection
from tests.conftest import ROOT


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(ROOT / "workers" / "examples"))
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        loaded.append(name)
        return importlib.import_module(name)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def kinds(worker: LocalWorker) -> list[str]:
    return [event["kind"] for event in worker.events]


def test_a_handler_runs_against_a_local_server() -> None:
    class Handler:
        def __init__(self) -> None:
            self.got: list[str] = []

        def on_message(self, ws, event) -> None:
            self.got.append(event.data)
            assert threading.current_thread().name == "mooring-context"

    handler = Handler()
    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        assert ws.status == "Connected"
        ws.send("hello")
        worker.wait_for("onMessage")
        ws.terminate(4000, "done")
        worker.wait_for("onTerminate")
        assert kinds(worker) == ["onOpen", "onMessage", "onTerminate"]
        assert worker.events[-1]["event"]["wasClean"] is True
        assert server.connections[0].received == ["hello"]
    assert handler.got == ["hello"]


def test_a_script_plays_the_server_and_may_cut_the_line() -> None:
    async def script(connection: ServerConnection) -> None:
        assert connection.headers["X-Token"] == "t"
        await connection.send({"n": 1})
        await connection.receive()
        connection.abort()

    class Handler:
        data_type = "object"
        headers = {"X-Token": "t"}

        async def on_message(self, ws, event) -> None:
            ws.send(event.data)

    with Server(script) as server, LocalWorker() as worker:
        worker.open(server.url, Handler())
        worker.wait_for("onTerminate")
        assert kinds(worker) == ["onOpen", "onMessage", "onError", "onTerminate"]
        assert server.connections[0].received == ['{"n":1}']


def test_what_a_callback_raises_and_asks_for_is_there_to_look_at() -> None:
    class Handler:
        def on_open(self, ws, event) -> None:
            call_worker("other", "store", [1], b"x")
            kill_worker("third")
            raise ValueError("wrong")

    with Server() as server, LocalWorker() as worker:
        worker.open(server.url, Handler())
        worker.wait_for("callbackError")
        assert worker.events[-1]["event"]["exception"] == "ValueError"
        assert worker.calls == [("other", "store", [[1], b"x"])]
        assert worker.kills == ["third"]


def test_what_a_call_has_asked_for_is_there_when_it_returns_however_late_it_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalWorker() as worker:
        monkeypatch.setattr(worker._runtime.outbox, "flush_behind", lambda: True)  # as if that were still to come
        worker.call(call_worker, "other", "store", 1)
        assert worker.calls == [("other", "store", [1])]


def test_what_a_script_asserts_fails_the_test() -> None:
    async def script(connection: ServerConnection) -> None:
        assert await connection.receive() == "hello"

    with pytest.raises(AssertionError, match="'goodbye' == 'hello'"), Server(script) as server, LocalWorker() as worker:
        worker.open(server.url).send("goodbye")
        worker.wait_for("onTerminate")
    with pytest.raises(KeyError), Server(script) as server, LocalWorker() as worker:
        worker.open(server.url).send("goodbye")
        worker.wait_for("onTerminate")
        raise KeyError("what the test itself raises comes first")


def test_waiting_for_what_does_not_come_names_what_did() -> None:
    with Server() as server, LocalWorker() as worker:
        worker.open(server.url, object())
        worker.wait_for("onOpen")
        with pytest.raises(TimeoutError, match=r"onMessage.*\['onOpen'\]"):
            worker.wait_for("onMessage", timeout_s=0.2)
        with pytest.raises(ConnectError):
            worker.open("ws://127.0.0.1:1/")


def test_example_hello(examples, capsys: pytest.CaptureFixture[str]) -> None:
    hello = examples("hello")
    with Server() as server, LocalWorker() as worker:
        worker.call(hello.say_hello, server.url)
        worker.wait_for("onTerminate")
    assert capsys.readouterr().out.splitlines() == ["Connection opened", "Answer: Hello world", "Connection closed"]


def test_example_headers(examples) -> None:
    headers = examples("headers")
    with Server() as server, LocalWorker() as worker:
        worker.open(server.url, headers.WithToken())
        assert server.connections[0].headers["Authorization"] == "Bearer example"
        assert server.connections[0].headers["Cookie"] == "session=s1; theme=dark"


def test_example_feed(examples) -> None:
    feed = examples("feed")

    async def script(connection: ServerConnection) -> None:
        assert await connection.receive() == '{"subscribe":["EURUSD"]}'
        for price in (1.1, 1.2):
            await connection.send({"symbol": "EURUSD", "price": price})

    with Server(script) as server, LocalWorker() as worker:
        worker.open(server.url, feed.Quotes(["EURUSD"]))
        worker.wait_for("onMessage", 2)
        assert worker.call(feed.price, "EURUSD") == 1.2


def test_example_bridge(examples) -> None:
    bridge = examples("bridge")

    async def script(connection: ServerConnection) -> None:
        await connection.send({"n": 1})

    with Server(script) as server, LocalWorker() as worker:
        ws = worker.open(server.url, bridge.Bridge())
        worker.wait_for("onTerminate")
        assert worker.calls == [("storage", "store", [ws.id, {"n": 1}]), ("storage", "store", [ws.id, {"ended": 1000}])]


class Stays:
    """Stays, with a delay for which no test can wait."""

    reconnect = {"min_delay": 1800, "max_delay": 3600, "min_uptime": 60, "give_up_after": 100_000}


def test_a_server_that_is_restarted_is_a_loss_and_time_that_is_driven_brings_the_return() -> None:
    with Server() as server, LocalWorker(drives_time=True) as worker:
        ws = worker.open(server.url, Stays())
        url = server.url
        began = time.monotonic()
        server.restart()
        assert server.url == url
        worker.wait_for("onDisconnect")
        assert ws.status == "Reconnecting" and len(server.connections) == 1
        worker.advance(1800)
        worker.wait_for("onReconnect")
        ws.send("still here")
        worker.wait_for("onMessage")
        assert kinds(worker) == ["onOpen", "onDisconnect", "onReconnect", "onMessage"]
        assert 0 < worker.events[2]["event"]["downMs"] <= 1_800_001 + 1_000 * (time.monotonic() - began)
        assert len(server.connections) == 2


def test_a_server_that_is_away_is_dialled_again_and_again_until_somebody_gives_up() -> None:
    with Server() as server, LocalWorker(drives_time=True) as worker:
        ws = worker.open(server.url, Stays())
        server.stop()
        worker.wait_for("onDisconnect")
        for attempt in range(1, 4):
            worker.advance(3600)
            wait_until(lambda at=attempt: ws.down is not None and (ws.down.phase, ws.down.attempt) == ("waiting", at))
        server.start()
        server.refuse(503)
        worker.advance(3600)
        wait_until(lambda: ws.down is not None and ws.down.attempt == 4 and ws.down.phase == "waiting")
        assert ws.down.errors[0].err_code == 107
        worker.advance(100_000)
        worker.wait_for("onTerminate")
        assert kinds(worker) == ["onOpen", "onDisconnect", "onError", "onTerminate"]
        assert worker.events[2]["event"]["errors"][0]["errCode"] == 209


def wait_until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_only_a_worker_that_drives_time_can_be_told_to() -> None:
    with LocalWorker() as worker, pytest.raises(RuntimeError, match="drives_time"):
        worker.advance(1)
