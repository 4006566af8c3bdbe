"""The scriptable WebSocket server of `mooring.testing`, on a thread of its own. It knows no worker and no handler."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import uvloop
from aiohttp import WSMsgType, web

WAIT_S = 30.0
"""So long anything of a test is waited for unless it says otherwise: a busy machine is no failure."""


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(
        self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    ) -> None:
        self._loop_factory = loop_factory
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self.loop: asyncio.AbstractEventLoop

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            loop = runner.get_loop()
            self._started.set_result(loop)
            loop.run_forever()

    def start(self) -> None:
        """Start it; `loop` is there then."""
        self._thread.start()
        self.loop = self._started.result(WAIT_S)

    def run(self, work: Any, timeout_s: float = WAIT_S) -> Any:
        """Return what the coroutine `work` returns; it runs on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def stop(self) -> None:
        """End the loop, and wait for its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)


class ServerConnection:
    """One connection as the server's script sees it.

    Attributes:
        headers: Of the client's handshake (case-insensitive).
        path: With its query, as it came.
        received: Every message so far: str or bytes.
    """

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.headers = request.headers
        self.path = request.path_qs
        self.received: list[str | bytes] = []
        self.close_code: int | None = None
        self._request = request
        self._socket = socket

    async def send(self, message: str | bytes | dict[Any, Any] | list[Any]) -> None:
        """Send text, a blob, or an object as JSON."""
        if isinstance(message, bytes):
            await self._socket.send_bytes(message)
        else:
            await self._socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def receive(self, timeout_s: float = WAIT_S) -> str | bytes | None:
        """Return the next message; None once the client has closed.

        Raises:
            TimeoutError: If none comes in time.
        """
        async with asyncio.timeout(timeout_s):
            message = await self._socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.received.append(message.data)
            found: str | bytes = message.data
            return found
        self.close_code = self._socket.close_code
        return None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close in order."""
        await self._socket.close(code=code, message=reason.encode())

    def abort(self) -> None:
        """Cut the TCP connection, as a crash or a lost network does. Inside a script; from a test, see `Server.drop`."""
        if self._request.transport is not None:
            self._request.transport.abort()


Script = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    """Send back whatever comes: the script of a server that was given none."""
    while True:
        message = await connection.receive(timeout_s=3600.0)
        if message is None:
            return
        await connection.send(message)


class Server:
    """A WebSocket server on 127.0.0.1 that runs `script` for each connection. Use it as ``with Server(…) as server``.

    What a script raises cuts its connection, and the end of the ``with`` raises it again: so a script may assert.

    Args:
        script: An ``async def`` of one `ServerConnection`; when it returns, the connection is closed with 1000.
        protocols: Subprotocols that it accepts.

    Attributes:
        url: Where it listens.
        connections: Every connection so far.
    """

    def __init__(self, script: Script = echo, *, protocols: tuple[str, ...] = ()) -> None:
        self._script = script
        self._protocols = protocols
        self._thread = LoopThread("mooring-test-server")
        self._runner: web.AppRunner
        self._errors: list[Exception] = []
        self._refusal = 0
        self._port = 0
        self.connections: list[ServerConnection] = []
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._thread.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.run(self._runner.cleanup())
        self._thread.stop()
        if exc is None and self._errors:
            raise self._errors[0]

    def drop(self) -> None:
        """Cut the TCP connections of all clients, as a server that crashes does; it still listens."""

        def cut() -> None:
            for connection in self.connections:
                connection.abort()

        self._thread.loop.call_soon_threadsafe(cut)

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Close all connections in order, as a server that is deployed anew does; it still listens."""

        async def close_all() -> None:
            await asyncio.gather(*(connection.close(code, reason) for connection in self.connections))

        self._thread.run(close_all())

    def stop(self) -> None:
        """Cut all connections and listen no more, as a server that is away; `start` has it come back at the same `url`."""
        self._thread.run(self._stop())

    def start(self) -> None:
        """Listen again, after `stop`."""
        self._thread.run(self._start())

    def restart(self) -> None:
        """Be away for a moment: `stop`, then `start`."""
        self.stop()
        self.start()

    def refuse(self, status: int) -> None:
        """Answer further handshakes with `status` instead of 101; 0: accept them again."""
        self._refusal = status

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"ws://127.0.0.1:{self._port}/"

    async def _stop(self) -> None:
        for connection in self.connections:
            connection.abort()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._refusal:
            return web.Response(status=self._refusal)
        socket = web.WebSocketResponse(protocols=self._protocols, max_msg_size=0)
        await socket.prepare(request)
        connection = ServerConnection(request, socket)
        self.connections.append(connection)
        try:
            await self._script(connection)
            await socket.close()
        except ConnectionError:
            pass  # the client has gone away while the script was sending
        except Exception as exc:  # noqa: BLE001 - the script is test code; `__exit__` raises it again
            self._errors.append(exc)
            connection.abort()
        connection.close_code = socket.close_code
        return socket
