"""The face that callbacks are handed: what could not be sent, and text of a class of its own."""

from __future__ import annotations

import asyncio
import enum
import sys
import threading

import pytest

from mooring import ConnectionClosed, WrongState, call_worker, kill_worker
from mooring.options import ConnectionRequest
from mooring.testing import LocalWorker, Server, ServerConnection
from mooring.usercode.websocket import WebSocket
from tests.conftest import wait_for
from tests.servers import DeafServer
from tests.workers.bare_worker import Service, bare_worker


@pytest.mark.parametrize("how", ["cut", "terminated"])
async def test_a_send_that_has_waited_for_room_raises_when_the_connection_ends_meanwhile(how: str) -> None:
    async with DeafServer() as server, bare_worker(Service(), outbound_bytes=100_000) as runtime:
        runtime.grant_ids(1, 256)
        request = ConnectionRequest(url=server.url, send_timeout=60, close_timeout=0.2)
        connection = await asyncio.to_thread(runtime.open, request, None)
        assert connection._socket is not None
        connection._socket.pause_writing()  # as the transport says it
        ws = WebSocket(runtime, connection)
        sent: list[int] = []
        raised: list[Exception] = []

        def send_often() -> None:
            try:
                while True:
                    ws.send(b"x" * 60_000)
                    sent.append(1)
            except (ConnectionClosed, WrongState) as exc:
                raised.append(exc)

        sending = threading.Thread(target=send_often)
        sending.start()
        await wait_for(lambda: sent and _is_in(sending, "reserve"))  # it waits for room
        if how == "cut":
            connection.abandon("cut")
        else:
            ws.terminate()
        await asyncio.to_thread(sending.join, 60)
        assert [type(exc) for exc in raised] == [ConnectionClosed]
        assert len(sent) == 1, "the one that waited is not said to be sent"


def _is_in(thread: threading.Thread, function: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


class Text(str):
    """As many libraries have it: a URL, a name, a secret."""

    def __str__(self) -> str:
        raise AssertionError

    def encode(self, *args: object) -> bytes:
        raise AssertionError


class Name(enum.StrEnum):
    OTHER = "other"
    STORE = "store"


def test_text_of_a_class_of_its_own_is_text() -> None:
    class Handler:
        data_type = Text("text")
        headers = {Text("X-Token"): Text("t"), "Y": (Text("a"), Text("b"))}
        protocols = [Text("chat")]

        def on_message(self, ws, event) -> None:
            call_worker(Name.OTHER, Name.STORE, event.data)
            kill_worker(Name.OTHER)
            ws.terminate(4000, Text("enough"))

    async def script(connection: ServerConnection) -> None:
        assert connection.headers["X-Token"] == "t"
        assert connection.headers.getall("Y") == ["a", "b"]
        await connection.send(await connection.receive() or "")
        await connection.receive()

    with Server(script, protocols=("chat",)) as server, LocalWorker() as worker:
        ws = worker.open(Text(server.url), Handler())
        ws.send(Text("hello"))
        worker.wait_for("onTerminate")
        assert [event["kind"] for event in worker.events] == ["onOpen", "onMessage", "onTerminate"]
        assert worker.calls == [("other", "store", ["hello"])]
        assert worker.kills == ["other"]
