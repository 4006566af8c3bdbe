"""The other side of a run: a server that feeds all its sockets at one rate together, and sees whether a connection ever has two of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Self

from aiohttp import web

from tests.servers import _Listening, frame

TICK_S = 0.02
SIZE = 100
HELD_BYTES = 1 << 20  # of one socket that is not read: it is passed over


class Socket:
    """One socket that is open."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport
        self.since = time.monotonic()


class Feed(_Listening):
    """Sends numbered messages; each path is one connection, and counts its own.

    Attributes:
        rate: Messages a second, over all sockets.
        sent: How many went out.
        sockets: The open ones, by path.
        overlap_s: For how long a path has had two sockets at once, at most.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.sent = 0
        self.sockets: dict[str, list[Socket]] = {}
        self.overlap_s: dict[str, float] = {}
        self.flowing = asyncio.Event()
        self._numbers: dict[str, itertools.count[int]] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sending
        await super().__aexit__(*exc)

    @property
    def open_count(self) -> int:
        """How many connections have a socket."""
        return sum(bool(found) for found in self.sockets.values())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        try:
            await websocket.prepare(request)
        except ConnectionError:  # who dialled is dead already
            return websocket
        assert request.transport is not None, "it was just accepted"
        socket = Socket(request.transport)
        held = self.sockets.setdefault(request.path, [])
        held.append(socket)
        try:
            async for _ in websocket:
                pass
        finally:
            held.remove(socket)
            if held:
                together_s = time.monotonic() - max(socket.since, *(other.since for other in held))
                self.overlap_s[request.path] = max(together_s, self.overlap_s.get(request.path, 0.0))
        return websocket

    async def _send(self) -> None:
        # Ends by cancellation.
        due, last, turn = 0.0, time.monotonic(), 0
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            due = min(due + (now - last) * self.rate, self.rate) if self.flowing.is_set() else 0.0
            last = now
            found = [(path, socket) for path, held in self.sockets.items() for socket in held]
            while found and due >= 1:
                due -= 1
                turn += 1
                path, socket = found[turn % len(found)]
                if not socket.transport.is_closing() and socket.transport.get_write_buffer_size() < HELD_BYTES:
                    number = next(self._numbers.setdefault(path, itertools.count(1)))
                    socket.transport.write(frame(1, str(number).ljust(SIZE, ".").encode()))
                    self.sent += 1
