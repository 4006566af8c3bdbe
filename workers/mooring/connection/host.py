"""What a connection asks of the worker round it. `process/runtime.py` fulfils it; nothing in this room knows more of it.

All of it is for the I/O loop, but for `wake`, which any thread may call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from mooring.connection.recorded import RecordedConnection
from mooring.events import Kind
from mooring.link.messages import Report, WorkerSettings
from mooring.link.messages_sent import SendFailed, SendQueued, Sent
from mooring.link.outbox import Outbox, Recorded
from mooring.metrics import WorkerMetrics
from mooring.wire.dial import Dialler
from mooring.wire.ticks import Ticks


class CodeFailed(Exception):
    """User code could not be had, or has raised; the text says what, on one line."""


class PausedReader(Protocol):
    """Who has stopped reading for want of room."""

    def resume_if_room(self) -> None:
        """Read again if there is room."""


class Deliveries(Protocol):
    """The way to the callbacks of a handler: they run when the events before them have had their turn."""

    @property
    def full(self) -> bool:
        """True when whoever feeds it must wait."""

    def post(self, connection: RecordedConnection, kind: Kind, event: msgspec.Struct) -> None:
        """Have an event that is not a message recorded, and its callback run."""

    def post_messages(
        self, connection: RecordedConnection, items: list[tuple[Any, bytes]], size: int, *, filled: bool = False
    ) -> None:
        """Have the messages of one read, as ``(data, payload)``, recorded, and their callbacks run; `filled`: they were fetched."""


class Redialler(Protocol):
    """Who dials again and again, and waits meanwhile."""

    def due(self, now: float) -> None:
        """The alarm has come."""

    def granted(self) -> None:
        """It is its turn to dial; it says when the handshake has ended."""

    def __hash__(self) -> int:
        """It is known by itself."""


class RedialTurns(Protocol):
    """When those who wait are called: one clock for all, and one limit for all who dial the same ``host:port``."""

    def alarm(self, who: Redialler, at: float) -> None:
        """Call `who.due` at `at`, and not at the time said before; infinity: never."""

    def take(self, who: Redialler, url: str) -> None:
        """Have `who` wait for its turn to dial the host of `url`; it is not granted before this has returned."""

    def take_at_once(self, who: Redialler, url: str) -> None:
        """Count the dial of `who`, which does not wait."""

    def done(self, who: Redialler) -> None:
        """The handshake of `who` has ended."""

    def cancel(self, who: Redialler) -> None:
        """`who` wants nothing any more, neither alarm nor turn; if it dials, it does not any more. Idempotent."""


class Host(Protocol):
    """The worker, as its connections see it.

    Attributes:
        outbox: Where events go that no callback has to see first.
        paused: Who is to be told when there is room again.
        ticks: The clock of pings, which need not be exact.
    """

    loop: asyncio.AbstractEventLoop
    settings: WorkerSettings
    metrics: WorkerMetrics
    outbox: Outbox
    paused: set[PausedReader]
    ticks: Ticks

    @property
    def dialler(self) -> Dialler:
        """What makes sockets."""

    @property
    def redials(self) -> RedialTurns:
        """When those who wait to dial again are called."""

    @property
    def mailbox(self) -> Deliveries:
        """Where events go that a callback is to see."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task; the worker awaits it at its end."""

    def wake(self) -> None:
        """Have the outbox flushed soon."""

    def flush(self) -> int:
        """Make frames of everything now; return the number of the last one."""

    def touch(self, connection: Recorded) -> None:
        """The record of `connection` has changed: it is reported with the next flush."""

    def touch_later(self, connection: Recorded) -> None:
        """Likewise, but what is about to follow may bring that flush: a moment is waited for it."""

    def figures_changed(self, connection: RecordedConnection) -> None:
        """Only figures have changed: they are reported with the next `Stats`."""

    def waits(self, connection: RecordedConnection) -> None:
        """Something waits at `connection`, for its peer or its handler: how much is looked at with the figures."""

    def run_code(
        self,
        connection: RecordedConnection,
        callback: str,
        target: str | Callable[..., Any],
        params: dict[str, Any] | list[Any],
        *first: Any,
    ) -> asyncio.Future[Any]:
        """Have user code run when what waits before it has had its turn; what it raises is a ``callbackError`` of `connection`.

        Args:
            callback: What the event calls it.
            target: A name of ``[functions]``, or the code itself.
            first: Put before `params`.

        The future raises `CodeFailed`, or has what the code has returned.
        """

    def tell_failure(self, connection: RecordedConnection, callback: str, exc: BaseException) -> None:
        """Tell of what went wrong with code of `connection`, by a line of the log and a ``callbackError``."""

    def answer(self, report: Report) -> None:
        """Answer a request; what it depends on has been flushed before."""

    def answer_behind(self, made: Callable[[int], Report]) -> None:
        """Answer a request behind all that is recorded, with all others of this pass of the loop; `made` is given the last frame's number."""

    def answer_send(self, answer: Sent | SendFailed | SendQueued, key: str | None) -> None:
        """Answer a send; what was written, or waits, under a `key` is remembered, so that a repeat does nothing."""

    def attend(self, connection: RecordedConnection) -> None:
        """`connection` does more than receive: who answers its peer must not rest."""

    def release(self, connection: RecordedConnection, size: int) -> None:
        """Give back the room that code in the worker has reserved for a message."""

    def forget(self, connection: RecordedConnection) -> None:
        """`connection` is over: no socket, no event to come."""
