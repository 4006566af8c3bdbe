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
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from mooring import json_text
from mooring.link.messages import AskCall, Events, Report, WorkerSettings, report_decoder
from mooring.local_server import WAIT_S, LoopThread, Script, Server, ServerConnection, echo
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from mooring.usercode import current
from mooring.usercode.websocket import WebSocket

__all__ = ["LocalWorker", "Script", "Server", "ServerConnection", "echo"]

STOP_GRACE_S = 2.0
ID_BLOCK = 1_000

Result = TypeVar("Result")


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


class LocalWorker:
    """A worker in this process, without a service. Use it as ``with LocalWorker() as worker``; one at a time.

    Args:
        drives_time: Its clock can be put forward (`advance`). Its loop is asyncio's then, not uvloop.
        functions: As ``[functions]`` of the configuration: what recipes may name, as name → ``module:attribute``.

    Attributes:
        events: Every event so far, as the API would show it (without `id`, which the journal gives).
        calls: What code asked for with `call_worker`: (worker, function, params).
        kills: Names given to `kill_worker`.
    """

    def __init__(self, *, drives_time: bool = False, functions: Mapping[str, str] | None = None) -> None:
        self._functions = dict(functions or {})
        self._thread = LoopThread("mooring-test-worker", _DrivenLoop if drives_time else uvloop.new_event_loop)
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
            worker="test", incarnation="test", secret="", socket_path="", log_file="", exit_record="",
            functions=self._functions,
        )  # fmt: skip
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

    def call(self, function: Callable[..., Result], *params: Any, timeout_s: float = WAIT_S) -> Result:
        """Run `function` in the worker's context, between two callbacks, and return its result; what callbacks have done before it, and it
        itself, is there to look at then.

        Raises:
            TimeoutError: If it has not run in time. Whatever `function` raises.
        """
        done: Future[Result] = Future()

        def run() -> None:
            try:
                told: Callable[[], None] = partial(done.set_result, function(*params))
            # Handed to the caller, whatever it is.
            except BaseException as exc:  # noqa: BLE001 - user code
                told = partial(done.set_exception, exc)
            self._runtime.loop.call_soon_threadsafe(self._tell, told)

        self._runtime.loop.call_soon_threadsafe(self._runtime.context.post_task, "call", run)
        return done.result(timeout_s)

    def _tell(self, told: Callable[[], None]) -> None:
        self._runtime.flush()  # events, calls and kills: they may still be on their way to us
        told()

    def wait_for(self, kind: str, count: int = 1, *, connection: int | None = None, timeout_s: float = WAIT_S) -> None:
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
