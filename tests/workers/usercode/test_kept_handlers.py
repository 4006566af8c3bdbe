"""Handlers of kept connections: which callbacks run, in which order, and what they may do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mooring import ConnectionClosed, InvalidRequest, WrongState
from mooring.errors import LimitReached, NotKept
from mooring.testing import LocalWorker, Server, ServerConnection
from tests.workers.connection.world import World

SOON = {"min_delay": 0.05, "max_delay": 0.2}


class Notes:
    """Writes down what its callbacks are handed."""

    reconnect: Any = SOON

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_open(self, ws, event) -> None:
        self.seen.append((event.type, ws.socket, ws.status, ws.ready))

    def on_message(self, ws, event) -> None:
        self.seen.append((event.type, event.data, event.filled))

    def on_disconnect(self, ws, event) -> None:
        self.seen.append((event.type, event.socket, event.cause, event.code))

    def on_reconnect(self, ws, event) -> None:
        self.seen.append((event.type, event.socket, event.attempts, event.restarted))

    def on_terminate(self, ws, event) -> None:
        self.seen.append((event.type, event.code))


def kinds(worker: LocalWorker) -> list[str]:
    return [event["kind"] for event in worker.events]


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_a_handler_hears_of_the_loss_and_of_the_return_in_their_places() -> None:
    handler = Notes()
    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        ws.send("one")
        worker.wait_for("onMessage")
        server.close(1012, "deploy")
        worker.wait_for("onReconnect")
        assert (ws.socket, ws.ready, ws.down, ws.status) == (2, True, None, "Connected")
        ws.send("two")
        worker.wait_for("onMessage", 2)
        ws.terminate()
        worker.wait_for("onTerminate")
        assert kinds(worker) == ["onOpen", "onMessage", "onDisconnect", "onReconnect", "onMessage", "onTerminate"]
        assert [event["seq"] for event in worker.events] == [1, 2, 3, 4, 5, 6]
    assert handler.seen == [
        ("open", 1, "Connected", True),
        ("message", "one", False),
        ("disconnect", 1, "peer", 1012),
        ("reconnect", 2, 1, False),
        ("message", "two", False),
        ("terminate", 1000),
    ]


def test_without_on_reconnect_on_open_gets_the_reconnect_event() -> None:
    class Subscribes:
        reconnect = SOON

        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_open(self, ws, event) -> None:
            self.seen.append(event.type)
            ws.send("subscribe")

    handler = Subscribes()
    with Server() as server, LocalWorker() as worker:
        worker.open(server.url, handler)
        worker.wait_for("onMessage")
        server.drop()
        worker.wait_for("onMessage", 2)
        assert [connection.received for connection in server.connections] == [["subscribe"], ["subscribe"]]
    assert handler.seen == ["open", "reconnect"]


@pytest.mark.parametrize("callback", ["on_disconnect", "on_reconnect", "on_open"])
def test_what_a_callback_raises_is_an_event_and_nothing_else(callback: str) -> None:
    class Raises:
        reconnect = SOON

    def fail(ws, event) -> None:
        raise ValueError(callback)

    handler = Raises()
    setattr(handler, callback, fail)
    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        server.drop()
        worker.wait_for("onReconnect")
        # on_open stands in for on_reconnect
        until(lambda: kinds(worker).count("callbackError") == (2 if callback == "on_open" else 1))
        raised = [event["event"] for event in worker.events if event["kind"] == "callbackError"]
        assert {event["callback"] for event in raised} == {callback}
        assert ws.status == "Connected"


def test_what_is_filled_comes_before_what_has_come_meanwhile_and_says_so() -> None:
    sent = threading.Event()

    async def numbers(connection: ServerConnection) -> None:
        if len(server.connections) == 1:
            await connection.send("1")
            await connection.receive()
        else:
            for number in range(5, 9):
                await connection.send(str(number))
            sent.set()
            await connection.receive(timeout_s=60)

    class CatchesUp(Notes):
        def on_reconnect(self, ws, event) -> None:
            super().on_reconnect(ws, event)
            assert sent.wait(60)  # live ones are there, and wait
            ws.fill(["2", "3"])
            ws.fill(iter(["4"]))
            self.seen.append(("filled",))

    handler = CatchesUp()
    with Server(numbers) as server, LocalWorker() as worker:
        worker.open(server.url, handler)
        worker.wait_for("onMessage")
        server.close(1001)
        worker.wait_for("onMessage", 8)
        messages = [event["event"] for event in worker.events if event["kind"] == "onMessage"]
        seen = list(handler.seen)
    assert [message["data"] for message in messages] == list("12345678")
    assert [message.get("filled", False) for message in messages] == [False, True, True, True] + [False] * 4
    assert [event["seq"] for event in worker.events] == list(range(1, len(worker.events) + 1))
    assert seen[seen.index(("filled",)) + 1 :] == [("message", str(number), number < 5) for number in range(2, 9)]


def test_an_async_handler_may_fill_from_another_thread_while_it_waits() -> None:
    class Handler:
        reconnect = SOON
        data_type = "object"

        def __init__(self) -> None:
            self.got: list[Any] = []

        async def on_reconnect(self, ws, event) -> None:
            import asyncio

            await asyncio.to_thread(ws.fill, [{"n": 1}, [2], None])

        def on_message(self, ws, event) -> None:
            self.got.append((event.data, event.filled))

    handler = Handler()
    with Server() as server, LocalWorker() as worker:
        worker.open(server.url, handler)
        server.drop()
        worker.wait_for("onMessage", 3)
    assert handler.got == [({"n": 1}, True), ([2], True), (None, True)]


def test_fill_is_for_the_callback_of_a_new_socket_and_for_its_data_type() -> None:
    wrong: list[type[BaseException]] = []

    class Handler:
        reconnect = SOON

        def on_reconnect(self, ws, event) -> None:
            for items in ([b"blob"], [1], ["good", None]):
                try:
                    ws.fill(items)
                except TypeError:
                    wrong.append(TypeError)
            try:
                ws.fill(["x" * 1024 * 1024] * 65)
            except LimitReached:
                wrong.append(LimitReached)

    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, Handler())
        with pytest.raises(RuntimeError, match="while they run"):
            ws.fill(["too early"])
        server.drop()
        worker.wait_for("onReconnect")
        with pytest.raises(RuntimeError, match="while they run"):
            ws.fill(["too late"])
        assert wrong == [TypeError, TypeError, TypeError, LimitReached]
        assert "onMessage" not in kinds(worker), "all or none"
        plain = worker.open(server.url)
        with pytest.raises(NotKept):
            plain.fill(["x"])
        with pytest.raises(NotKept):
            plain.reconnect()
        assert (plain.socket, plain.ready, plain.down) == (1, True, None)


def test_a_handler_orders_a_new_socket_and_cannot_send_without_one() -> None:
    tried: list[str] = []

    class Handler:
        reconnect = SOON

        def on_disconnect(self, ws, event) -> None:
            try:
                ws.send("lost")
            except WrongState as exc:
                tried.append(exc.status)

    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, Handler())
        server.refuse(503)
        ws.reconnect(code=3000, reason="renewed")
        worker.wait_for("onDisconnect")
        assert ws.status == "Reconnecting" and tried == ["Reconnecting"]
        until(lambda: ws.down is not None and ws.down.attempt and [one.err_code for one in ws.down.errors] == [107])
        server.refuse(0)
        worker.wait_for("onReconnect")
        (lost,) = (event["event"] for event in worker.events if event["kind"] == "onDisconnect")
        assert lost["cause"] == "order"
        until(lambda: server.connections[0].close_code == 3000)
        for wrong in ({"code": 1001}, {"reason": "x" * 200}, {"delay": -1}, {"delay": float("nan")}):
            with pytest.raises(InvalidRequest):
                ws.reconnect(**wrong)
        ws.terminate()
        worker.wait_for("onTerminate")
        with pytest.raises(ConnectionClosed):
            ws.reconnect()


def test_new_returns_while_a_kept_one_goes_on_trying_if_it_was_to() -> None:
    class Patient(Notes):
        reconnect = {"first": "retry", **SOON}

    handler = Patient()
    with Server() as server, LocalWorker() as worker:
        server.refuse(503)
        ws = worker.open(server.url, handler)
        assert (ws.status, ws.socket) == ("Connecting", 0) and ws.down is not None
        server.refuse(0)
        worker.wait_for("onOpen")
        assert ws.status == "Connected" and handler.seen == [("open", 1, "Connected", True)]


@pytest.mark.parametrize(
    ("reconnect", "detail"),
    [
        ({"min_delay": 0}, "min_delay"),
        ({"no_such_key": 1}, "noSuchKey"),
        ({"first": "maybe"}, "first"),
        ("yes", "reconnect"),
        ({"persist": True}, "persist"),
    ],
)
def test_a_handler_that_asks_for_what_cannot_be_is_told_where(reconnect: Any, detail: str) -> None:
    class Handler:
        pass

    handler: Any = Handler()
    handler.reconnect = reconnect
    with Server() as server, LocalWorker() as worker:
        with pytest.raises(InvalidRequest, match=r"Handler\.reconnect"):
            worker.open(server.url, handler)
        assert server.connections == [] and worker.events == []


def test_the_time_of_the_last_message_that_is_recorded_is_never_that_of_one_in_the_mailbox() -> None:
    world = World()
    connection, transport = world.ready()
    posted: list[int] = []
    world.mailbox = type(
        "Mailbox", (), {"post_messages": lambda self, c, items, size: posted.append(size), "full": False}
    )()
    connection.handler = object()
    transport.say("waits for the handler")
    assert posted and connection.last_message_at_us is not None
    assert connection.update().kept.recorded_at_us is None  # type: ignore[union-attr]
    connection.recorded_to = (5, 1_000)  # the context is ahead of the frames
    assert connection.update().kept.recorded_at_us is None  # type: ignore[union-attr]
    connection.recorded_seq = 5
    assert connection.update().kept.recorded_at_us == 1_000  # type: ignore[union-attr]
