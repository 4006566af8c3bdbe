"""A connection as far as messages wait to be sent on it (``whenDown: "queue"``). On the I/O loop only.

How long they wait, and in which order they go out, is for `queued_sends`; when there will be a socket, for the law (`kept_law`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from mooring.connection.host import Host
from mooring.connection.live import LiveConnection
from mooring.connection.queue import SendQueue
from mooring.connection.queued_sends import QueuedSends, greets
from mooring.events import Kind
from mooring.kept_events import UnsentEvent
from mooring.link.messages_sent import QueueDropped
from mooring.link.record import ConnectionCreated, ConnectionUpdate, KeptUpdate
from mooring.metrics import count
from mooring.options import ConnectionOptions
from mooring.send_errors import QueueFull


class QueueingConnection(LiveConnection):
    """A connection that has one socket after the other, so that messages may wait for the next."""

    __slots__ = ("_greets",)
    _sends: QueuedSends

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        resumed: ConnectionUpdate | None = None,
    ) -> None:
        before = (None if resumed is None else resumed.kept) or KeptUpdate()
        super().__init__(host, created, options, handler, before.socket)
        self._sends = QueuedSends(host, self, self, before.queue_id + 1)
        self._greets = handler is not None and greets(handler)

    @property
    @abstractmethod
    def may_queue(self) -> bool:
        """There will be a socket, as far as is known."""

    @abstractmethod
    def _set_alarm(self) -> None:
        """The state has changed: be called when it is time."""

    def take_over(self, queue: SendQueue, dropped: Sequence[UnsentEvent]) -> None:
        """Go on with what has waited before there was a connection, and tell what of it was given up."""
        self._sends.queue = queue
        for event in dropped:
            self.unsent(event)
        self._sends.measure()
        self._host.touch(self)

    def queue_changed(self) -> None:
        """What waits to be sent has changed."""
        self._sends.measure()
        self._host.touch(self)
        self._set_alarm()

    def unsent(self, event: UnsentEvent) -> None:
        """Messages were given up."""
        count(self._host.metrics.unsent, event.reason, event.count)
        self._sends.measure()
        self._record(Kind.onUnsent, event)

    def queue_from_worker(self, opcode: int, payload: bytes, ttl_s: float, done: Future[int | None]) -> None:
        """Have one message of code in this worker wait: `done` gets its number, or None where there will be no socket."""
        if not done.set_running_or_notify_cancel():
            return
        if not self.may_queue:
            done.set_result(None)
            return
        made = self._sends.queue_from_worker(opcode, payload, ttl_s)
        if made is None:
            done.set_exception(QueueFull(self.id))
        else:
            done.set_result(made.queue_id)

    def ttl_s(self, when_down: str | None, ttl_s: float | None) -> float | None:
        """Return for how long a message may wait; None: it may not. For any thread."""
        return self._sends.ttl_s(when_down, ttl_s)

    def drop_queue(self, request: int) -> None:
        """Give up what waits to be sent; `request` is answered."""
        event = self._sends.queue.give_up("dropped")
        if event is not None:
            self.unsent(event)
            self.queue_changed()
            self._sends.go_on()  # what stood behind it
        messages, size = (0, 0) if event is None else (event.count, event.bytes)
        self._host.answer(QueueDropped(request, self._host.flush(), self.state.value, messages, size))

    def greeted(self) -> None:
        """A callback that was told of a ready socket has returned; what it has filled waits."""
        self._host.waits(self)
        if self._greets:
            self._sends.greeted()
