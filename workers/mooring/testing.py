"""Test a handler in a plain pytest test: a scriptable WebSocket server, and a worker without a service.

    from mooring.testing import LocalWorker, Server

    def test_it_answers():
        with Server() as server, LocalWorker() as worker:       # Server() echoes
            ws = worker.open(server.url, MyHandler())
            ws.send("hello")
            worker.wait_for("onMessage")
            ws.terminate()
            worker.wait_for("onTerminate")
        assert [event["kind"] for event in worker.events] == ["onOpen", "onMessage", "onTerminate"]

A connection that stays is tested by what happens to its server (`Server.drop`, `close`, `refuse`, `stop`, `start`, `restart`) and by time that
the test drives, so that nobody waits for a delay:

    with Server() as server, LocalWorker(drives_time=True) as worker:
        worker.open(server.url, Quotes())                        # its `reconnect` is {"min_delay": 30}
        server.restart()
        worker.wait_for("onDisconnect")
        worker.advance(30)                                       # no delay of the first attempt is longer
        worker.wait_for("onReconnect")

Sockets, threads and callbacks are those of a real worker process; only the journal is missing.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop
from aiohttp import WSMsgType, web

from mooring import json_text
from mooring.link.messages import AskCall, Events, Report, WorkerSettings, report_decoder
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from mooring.usercode import current
from mooring.usercode.websocket import WebSocket

START_TIMEOUT_S = 10.0
STOP_GRACE_S = 2.0
ID_BLOCK = 1_000

Result = TypeVar("Result")


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

    async def receive(self, timeout_s: float = 5.0) -> str | bytes | None:
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


class _DrivenLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward: what is due by then happens at once, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s = 0.0

    def time(self) -> float:
        """Return the monotonic time, and what it was put forward."""
        return super().time() + self._ahead_s

    def put_forward(self, seconds: float) -> None:
        """Let `seconds` have passed. On the loop only."""
        self._ahead_s += seconds


class _LoopThread:
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
        self._thread.start()
        self.loop = self._started.result(START_TIMEOUT_S)

    def run(self, work: Any, timeout_s: float = START_TIMEOUT_S) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(START_TIMEOUT_S)


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
        self._thread = _LoopThread("mooring-test-server")
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


class LocalWorker:
    """A worker in this process, without a service. Use it as ``with LocalWorker() as worker``; one at a time.

    Args:
        drives_time: Its clock can be put forward (`advance`). Its loop is asyncio's then, not uvloop.

    Attributes:
        events: Every event so far, as the API would show it (without `id`, which the journal gives).
        calls: What code asked for with `call_worker`: (worker, function, params).
        kills: Names given to `kill_worker`.
    """

    def __init__(self, *, drives_time: bool = False) -> None:
        self._thread = _LoopThread("mooring-test-worker", _DrivenLoop if drives_time else uvloop.new_event_loop)
        self._runtime: Runtime
        self._changed = threading.Condition()
        self._next_id = 1
        self.events: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str, list[Any]]] = []
        self.kills: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._thread.run(self._start())
        current.set_runtime(self._runtime)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._thread.run(run_down(self._runtime, "the test has ended", STOP_GRACE_S), STOP_GRACE_S + 60)
        finally:
            current.set_runtime(None)
            self._thread.stop()

    async def _start(self) -> None:
        settings = WorkerSettings(
            worker="test", incarnation="test", secret="", socket_path="", log_file="", exit_record=""
        )
        self._runtime = Runtime(settings, self)
        self._runtime.start()
        self.ask_ids()

    # Uplink: what a service would be told

    def send(self, report: Report) -> None:
        """Nobody waits for answers here."""

    def send_frame(self, data: bytes) -> bool:
        """Take a frame of events, and say that it is stored."""
        report = report_decoder.decode(data[4:])
        assert isinstance(report, Events), "the outbox sends nothing else"
        with self._changed:
            if report.kinds:
                self.events += [json_text.decode(b"{" + body) for body in report.bodies.split(b"\n")]
            for ask in report.asks:
                if isinstance(ask, AskCall):
                    self.calls.append((ask.worker, ask.name, list(ask.params)))
                else:
                    self.kills.append(ask.worker)
            self._changed.notify_all()
        self._runtime.loop.call_soon(self._runtime.outbox.stored, report.number)
        return True

    def ask_ids(self) -> None:
        """Grant a block of connection ids."""
        first, self._next_id = self._next_id, self._next_id + ID_BLOCK
        self._runtime.grant_ids(first, ID_BLOCK)

    # what tests do

    def open(self, url: str, handler: object | None = None) -> WebSocket:
        """Open a connection as code in a worker does (`WebSocket.new`).

        Raises:
            InvalidRequest, ConnectError: As `WebSocket.new`.
        """
        return WebSocket.new(url, handler)

    def advance(self, seconds: float) -> None:
        """Have `seconds` pass for the worker: delays, timeouts and clocks that end by then end now. The time of day stays.

        Raises:
            RuntimeError: If it does not drive time.
        """
        loop = self._thread.loop
        if not isinstance(loop, _DrivenLoop):
            raise RuntimeError("LocalWorker(drives_time=True) drives time; this one does not")

        async def pass_time() -> None:
            loop.put_forward(seconds)
            await asyncio.sleep(0)  # a pass in which what is due has been begun

        self._thread.run(pass_time())

    def call(self, function: Callable[..., Result], *params: Any, timeout_s: float = 10.0) -> Result:
        """Run `function` in the worker's context, between two callbacks, and return its result.

        Raises:
            TimeoutError: If it has not run in time. Whatever `function` raises.
        """
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(function(*params))
            # Handed to the caller, whatever it is.
            except BaseException as exc:  # noqa: BLE001 - user code
                done.set_exception(exc)

        self._runtime.loop.call_soon_threadsafe(self._runtime.context.post_task, "call", run)
        return done.result(timeout_s)

    def wait_for(self, kind: str, count: int = 1, *, connection: int | None = None, timeout_s: float = 5.0) -> None:
        """Wait until there are `count` events of `kind` (of `connection`), and their callbacks have returned.

        Raises:
            TimeoutError: If not in time; it names the events that there are.
        """

        def enough() -> bool:
            return bool(
                count
                <= sum(event["kind"] == kind and connection in (None, event.get("connection")) for event in self.events)
            )

        deadline = time.monotonic() + timeout_s
        with self._changed:
            if not self._changed.wait_for(enough, timeout_s):
                kinds = [event["kind"] for event in self.events]
                raise TimeoutError(f"not {count} × {kind} within {timeout_s:g} s; there are {kinds}")
        # An event is recorded when its callback begins; a call comes after it.
        self.call(lambda: None, timeout_s=max(0.1, deadline - time.monotonic()) + 1)
