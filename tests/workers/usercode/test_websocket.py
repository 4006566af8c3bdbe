"""What `ws.send` says of a message that could not be sent."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mooring import ConnectionClosed, WrongState
from mooring.options import ConnectionRequest
from mooring.usercode.websocket import WebSocket
from tests.servers import DeafServer
from tests.workers.bare_worker import Service, bare_worker


@pytest.mark.parametrize("how", ["cut", "terminated"])
async def test_a_send_that_has_waited_for_room_raises_when_the_connection_ends_meanwhile(how: str) -> None:
    async with DeafServer() as server, bare_worker(Service(), outbound_bytes=100_000) as runtime:
        runtime.grant_ids(1, 256)
        request = ConnectionRequest(url=server.url, send_timeout=20, close_timeout=0.2)
        connection = await asyncio.to_thread(runtime.open, request, None)
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
        before = -1
        while len(sent) != before:  # until it waits for room
            before = len(sent)
            await asyncio.sleep(0.1)
        assert sending.is_alive() and before
        if how == "cut":
            connection.abandon("cut")
        else:
            ws.terminate()
        await asyncio.to_thread(sending.join, 5)
        assert [type(exc) for exc in raised] == [ConnectionClosed]
        assert len(sent) == before, "the one that waited is not said to be sent"
