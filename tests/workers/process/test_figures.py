"""How full the queues are is told by the connections at which something waits; nobody looks at all the others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mooring.connection.live import LiveConnection
from mooring.options import ConnectionRequest
from mooring.process.runtime import Runtime
from mooring.wire.socket import Socket
from tests.conftest import wait_for
from tests.servers import EchoServer
from tests.workers.bare_worker import Service, bare_worker


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the connections whose outbound queue was looked at, in order."""
    looked: list[int] = []
    look = LiveConnection.outbound_bytes.fget
    assert look is not None

    def counted(connection: LiveConnection) -> Any:
        looked.append(connection.id)
        return look(connection)

    monkeypatch.setattr(LiveConnection, "outbound_bytes", property(counted))
    return looked


async def _opened(runtime: Runtime, url: str, handler: object | None = None) -> LiveConnection:
    return await asyncio.to_thread(runtime.open, ConnectionRequest(url=url), handler)


def _socket_of(connection: LiveConnection) -> Socket:
    assert connection._socket is not None
    return connection._socket


async def test_idle_connections_are_not_looked_at(echo: EchoServer, looked_at: list[int]) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 10)
        for _ in range(3):
            await _opened(runtime, echo.url)
        runtime.stats()
        assert looked_at == []


async def test_what_a_peer_does_not_read_is_in_the_figures_until_it_has_read_it(
    echo: EchoServer, looked_at: list[int]
) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 10)
        stalled, _ = [await _opened(runtime, echo.url) for _ in range(2)]
        _socket_of(stalled).pause_writing()  # as the transport says it
        for _ in range(2):
            stalled.send_from_worker(1, b"x" * 1_000)
        runtime.stats()
        assert (runtime.metrics.outbound_bytes, looked_at) == (2_000, [stalled.id])
        assert runtime.metrics.outbound_fill == 2_000 / runtime.settings.outbound_bytes
        _socket_of(stalled).resume_writing()
        runtime.stats()
        assert (runtime.metrics.outbound_bytes, runtime.metrics.outbound_fill) == (0, 0.0)
        looked_at.clear()
        runtime.stats()
        assert looked_at == []


class Blocking:
    """Its first message keeps the others waiting."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def on_message(self, ws: Any, event: Any) -> None:
        self.entered.set()
        assert self.released.wait(60)


async def test_what_waits_for_a_handler_is_in_the_figures_until_it_has_it(
    echo: EchoServer, looked_at: list[int]
) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 10)
        handler = Blocking()
        connection = await _opened(runtime, echo.url, handler)
        try:
            for _ in range(3):
                connection.send_from_worker(1, b"x" * 100)  # and the server sends it back
            await asyncio.to_thread(handler.entered.wait, 60)
            await wait_for(lambda: connection.posted == 3)
            runtime.stats()
            assert runtime.metrics.inbound_bytes in (200, 300)  # one may count as taken
            assert runtime.metrics.inbound_fill > 0
        finally:
            handler.released.set()
        await wait_for(lambda: (connection.taken, connection.taken_bytes) == (3, 300))
        runtime.stats()
        assert (runtime.metrics.inbound_bytes, runtime.metrics.inbound_fill) == (0, 0.0)
        looked_at.clear()
        runtime.stats()
        assert looked_at == []


async def test_a_connection_that_has_ended_is_in_no_figure(echo: EchoServer, looked_at: list[int]) -> None:
    async with bare_worker(Service()) as runtime:
        runtime.grant_ids(1, 10)
        connection = await _opened(runtime, echo.url)
        _socket_of(connection).pause_writing()
        connection.send_from_worker(1, b"x" * 1_000)
        _socket_of(connection).abort("the test")
        await wait_for(lambda: connection.id not in runtime.connections)
        looked_at.clear()
        runtime.stats()
        assert (runtime.metrics.outbound_bytes, looked_at) == (0, [])
