"""A peer that follows a script: what the recipe of a client has to get along with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from tests.servers import _Listening

Script = Callable[["Scripted", web.WebSocketResponse], Awaitable[None]]


class Scripted(_Listening):
    """A server that runs a script for each socket.

    Attributes:
        handshakes: The request of each, in order; `heard`: what each of their clients has sent.
        refuse: Statuses that the next handshakes are answered with.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self.handshakes: list[web.Request] = []
        self.heard: list[list[str]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.refuse: list[int] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append(request)
        if self.refuse:
            return web.Response(status=self.refuse.pop(0))
        socket = web.WebSocketResponse(protocols=("v1", "graphql-transport-ws"))
        await socket.prepare(request)
        self.sockets.append(socket)
        self.heard.append([])
        await self._script(self, socket)
        return socket

    async def hear(self, socket: web.WebSocketResponse, timeout_s: float = 60) -> str | None:
        """Return the next message of the client; None: it has closed."""
        message = await socket.receive(timeout_s)
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return None
        text = message.data if isinstance(message.data, str) else message.data.decode()
        self.heard[self.sockets.index(socket)].append(text)
        return text

    async def listen(self, socket: web.WebSocketResponse) -> None:
        """Hear all that comes until the client closes."""
        while await self.hear(socket, 3600) is not None:
            pass

    def cut(self) -> None:
        """Cut the TCP connection of the newest socket."""
        transport = self.sockets[-1]._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()


class HttpServer:
    """An HTTP server with one answer."""

    def __init__(self, handle: Any, host: str = "127.0.0.1") -> None:
        self._handle = handle
        self._host = host

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/token", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        return f"http://{self._host}:{self._runner.addresses[0][1]}/token"

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()
