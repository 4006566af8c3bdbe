"""What code in a worker sends while its connection is down, and what it asks of the peer: `WebSocket.send` and `request`."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mooring import (
    IdInUse,
    InvalidRequest,
    NoRequests,
    NotKept,
    PeerError,
    QueueFull,
    ReplyLost,
    ReplyTimeout,
    UnsentEvent,
    WebSocket,
    WrongState,
)
from mooring.testing import LocalWorker, Server, ServerConnection


async def listens(connection: ServerConnection) -> None:
    while await connection.receive(timeout_s=3600) is not None:
        pass


async def answers(connection: ServerConnection) -> None:
    """A JSON-RPC server of few words."""
    while (text := await connection.receive(timeout_s=3600)) is not None:
        asked = json.loads(text)
        match asked.get("method"):
            case "double":
                await connection.send({"id": asked["id"], "result": 2 * asked["params"]})
            case "fail":
                await connection.send({"id": asked["id"], "error": {"message": "no"}})
            case "flood":
                for number in range(asked["params"]):
                    await connection.send({"number": number})
                await connection.send({"id": asked["id"], "result": "done"})
            case "hang up":
                connection.abort()


class Kept:
    reconnect = {"min_delay": 0.05, "max_delay": 0.05}
    when_down = "queue"

    def __init__(self) -> None:
        self.unsent: list[UnsentEvent] = []

    def on_unsent(self, ws: WebSocket, event: UnsentEvent) -> None:
        self.unsent.append(event)


def received(server: Server) -> list[str | bytes]:
    return [message for connection in server.connections for message in connection.received]


def test_what_waits_goes_out_once_ready_and_behind_the_login_of_the_handler() -> None:
    class LogsIn(Kept):
        def on_open(self, ws: WebSocket, event: Any) -> None:
            ws.send(f"login {ws.socket}")
            assert ws.send("now", when_down="fail") is None

    with Server(listens) as server, LocalWorker() as worker:
        ws = worker.open(server.url, LogsIn())
        worker.wait_for("onOpen")
        server.refuse(503)
        server.drop()
        worker.wait_for("onDisconnect")
        assert [ws.send("one"), ws.send(b"two"), ws.send({"three": 3})] == [1, 2, 3]
        with pytest.raises(WrongState):
            ws.send("never", when_down="fail")
        server.refuse(0)
        worker.wait_for("onReconnect")
        ws.send("last")
        _until(lambda: len(received(server)) == 8)
    assert received(server) == ["login 1", "now", "login 2", "now", "one", b"two", '{"three":3}', "last"]


def test_what_was_not_sent_comes_back_to_the_handler() -> None:
    handler = Kept()
    with Server(listens) as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        server.refuse(503)
        server.drop()
        worker.wait_for("onDisconnect")
        ws.send("old", ttl=0.1)
        worker.wait_for("onUnsent")
        ws.send(b"\x00late")
        with pytest.raises(QueueFull):
            ws.send(bytes(5_000_000))
        ws.terminate()
        worker.wait_for("onTerminate")
    assert [(event.reason, event.messages[0].queue_id, event.messages[0].data) for event in handler.unsent] == [
        ("expired", 1, "old"), ("terminated", 2, b"\x00late"),
    ]  # fmt: skip


def test_waiting_is_for_those_that_are_kept_and_within_bounds() -> None:
    with Server(listens) as server, LocalWorker() as worker:
        ws = worker.open(server.url)
        with pytest.raises(NotKept):
            ws.send("x", when_down="queue")
        for wrong in ({"when_down": "wait"}, {"ttl": 0}, {"ttl": float("nan")}, {"ttl": True}):
            with pytest.raises(InvalidRequest):
                ws.send("x", **wrong)  # type: ignore[arg-type]


class Asks:
    requests = "jsonrpc"

    def __init__(self) -> None:
        self.found: list[Any] = []


def test_a_request_blocks_in_a_def_and_is_awaited_in_an_async_def_also_inside_a_callback() -> None:  # 40
    class Both(Asks):
        def on_open(self, ws: WebSocket, event: Any) -> None:
            self.found.append(ws.request({"method": "double", "params": 21})["result"])

        async def on_message(self, ws: WebSocket, event: Any) -> None:
            if len(self.found) == 1:
                first, second = await asyncio.gather(
                    ws.request_async({"method": "double", "params": 1}),
                    ws.request_async({"method": "double", "params": 2}),
                )
                self.found += [first["result"], second["result"]]

    handler = Both()
    with Server(answers) as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        worker.wait_for("onMessage", 3)
        assert ws.request({"method": "double", "params": 5})["result"] == 10, "from any thread"
    assert handler.found == [42, 2, 4]


def test_a_request_whose_reply_is_behind_more_than_may_wait_for_the_handler_is_answered() -> None:
    class Floods(Asks):
        def on_open(self, ws: WebSocket, event: Any) -> None:
            self.found.append(ws.request({"method": "flood", "params": 3_000})["result"])

        def on_message(self, ws: WebSocket, event: Any) -> None:
            self.found.append(json.loads(event.data).get("number"))

    handler = Floods()
    with Server(answers) as server, LocalWorker() as worker:
        worker.open(server.url, handler)
        worker.wait_for("onMessage", 3_001, timeout_s=60)
    assert handler.found == ["done", *range(3_000), None]


def test_each_way_in_which_a_reply_does_not_come_has_its_error() -> None:
    with Server(answers) as server, LocalWorker() as worker:
        ws = worker.open(server.url, Asks())
        with pytest.raises(PeerError) as failed:
            ws.request({"method": "fail"})
        assert failed.value.reply["error"] == {"message": "no"}
        with pytest.raises(ReplyTimeout):
            ws.request({"method": "silence"}, timeout=0.1)

        def lose() -> None:
            with pytest.raises(ReplyLost):
                ws.request({"method": "x", "id": "mine"})

        waits = threading.Thread(target=lose)
        waits.start()
        _until(lambda: any("mine" in str(one) for one in received(server)))
        with pytest.raises(IdInUse):
            ws.request({"method": "x", "id": "mine"})
        with pytest.raises(InvalidRequest):
            ws.request([1])
        with pytest.raises(InvalidRequest):
            ws.request({}, timeout=0)
        with pytest.raises(TypeError):
            ws.request("text")  # type: ignore[arg-type]
        with pytest.raises(ReplyLost):
            ws.request({"method": "hang up"})
        waits.join(60)
        worker.wait_for("onTerminate")
        with pytest.raises(Exception, match="Closed"):
            ws.request({"method": "double", "params": 1})
        with pytest.raises(NoRequests):
            worker.open(server.url).request({})


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
