"""What user code's side asks of the worker round it, besides what connections ask. `process/runtime.py` fulfils it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol

from mooring.changes import Changes
from mooring.connection.asked import Known
from mooring.connection.host import Host
from mooring.connection.live import LiveConnection
from mooring.connection.recorded import RecordedConnection
from mooring.link.messages import AskCall, Called, CallFailed, Open
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions, ConnectionRequest


class Turns(Protocol):
    """The way into the thread of user code for what mooring itself has to do there."""

    def post_task(self, name: str, run: Callable[[], Awaitable[None] | None]) -> None:
        """Have `run`, which must not raise (nor what it returns to be awaited), run when what waits before it has had its turn."""


class CodeHost(Host, Protocol):
    """The worker, as code in it sees it. What is not said to be for any thread is for the I/O loop.

    Attributes:
        worker: The name of this worker.
        known: What recipes may name.
    """

    worker: str
    known: Known

    @property
    def context(self) -> Turns:
        """The thread of user code."""

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function` run on the I/O loop; for any thread."""

    def resume_paused(self) -> None:
        """There may be room again: let paused connections read."""

    def resume(self, connection: RecordedConnection) -> None:
        """There may be room again for what `connection` reads."""

    def reserve(self, connection: RecordedConnection, size: int) -> bool:
        """Wait for room for a message of `size` bytes to `connection`, and say whether it is still Connected then; for any
        thread but the I/O loop.

        Raises:
            SendError: If the peer has not read for ``sendTimeout``.
        """

    def created(self, command: Open, options: ConnectionOptions) -> ConnectionCreated:
        """Return the unchanging part of the record of what `command` opens."""

    def check_secrets(self, options: ConnectionOptions, *, declared: bool) -> None:
        """Say whether the secrets that `options` need are there, and may go where it goes.

        Raises:
            InvalidRequest, SecretNotAllowed: If not.
        """

    def begin(self, command: Open, options: ConnectionOptions, handler: object | None) -> LiveConnection:
        """Dial for a request, once its handler (if it names one) is there."""

    def open(self, request: ConnectionRequest, handler: object | None) -> LiveConnection:
        """Open a connection and wait until the dial has ended well; for any thread but the I/O loop.

        Raises:
            InvalidRequest: If the url, or what the handler asks for, is not valid.
            ConnectError: If the dial fails.
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
            MooringError: If the worker is being killed, or no connection id can be had while the service is away.
        """

    def change(self, connection: LiveConnection, changes: Changes, done: Future[None]) -> None:
        """Change what a connection is asked for, and end `done`, perhaps with what is wrong; for the I/O loop only."""

    def ask_call(self, ask: AskCall, size: int) -> None:
        """Ask the service for a call with `size` bytes of parameters, when there is room; for any thread but the I/O loop.

        Raises:
            MooringError: If the worker ends before, or has ended.
        """

    def kill(self, worker: str) -> None:
        """Ask the service to kill `worker`; for any thread but the I/O loop.

        Raises:
            MooringError: If this worker has ended.
        """

    def answer_call(self, answer: Called | CallFailed) -> None:
        """Answer a call, behind the events of what it did."""
