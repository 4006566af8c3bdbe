"""A connection as far as requests go over it: messages pass through on their way to the journal or the handler. On the I/O loop only."""

from __future__ import annotations

from abc import abstractmethod

from mooring.connection import received
from mooring.connection.acks import Owed
from mooring.connection.asked import requests_of
from mooring.connection.asking import Asking, Found, Waiter
from mooring.connection.conversing import ConversingConnection
from mooring.connection.host import Host
from mooring.errors import ErrCode
from mooring.link.messages_sent import RequestFailed
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions
from mooring.wire.frames import INVALID_DATA
from mooring.wire.outbound import Outbound


class AskingConnection(ConversingConnection):
    """A connection that may have ``requests``.

    Args:
        last_socket: Number of its last socket, where another process of the worker had it.
    """

    __slots__ = ("_asking",)

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        last_socket: int = 0,
    ) -> None:
        super().__init__(host, created, options, handler, last_socket)
        protocol = requests_of(options)
        self._asking = None if protocol is None else Asking(host, self, self, protocol, self.ids)

    @property
    @abstractmethod
    def open_outbound(self) -> Outbound | None:
        """Where messages go just now; None: no socket is ready."""

    def deliver(self, items: list[tuple[int, bytes]], owed: Owed | None = None) -> bool:
        """Record messages, or hand them over; whoever waits for one of them gets it. Say whether any was no reply."""
        asking = self._asking
        found: list[Found] = []
        answers = [] if owed is None else owed.answers
        if asking is not None:
            items, found, answers = asking.take(items, answers)
        before, counted = self.seq, self.messages_in
        if owed is not None:
            owed.acks.expect(self, answers)
        wrong = received.take(self._host, self, items) if items else None
        if owed is not None:
            owed.acks.taken(self)
        if found and asking is not None:
            asking.answer(found, self.messages_in - counted, before + 1 if self.handler is None else 0)
        if wrong is not None:
            self.failed(ErrCode.INVALID_DATA, f"the server sent {wrong}", INVALID_DATA)
        return len(items) > (sum(one.place is not None for one in found) if found else 0)

    def may_read(self) -> bool:
        """Say whether every queue that this connection feeds has room."""
        conversation = self._conversation
        if conversation is None and self.handler is None:  # the common case: asked after each read
            return not self._host.outbox.full
        if conversation is not None and (conversation.opening or not conversation.has_room()):
            return bool(conversation.opening)
        return received.has_room(self._host, self, waited_for=self._asking is not None and self._asking.code_waits)

    def ask(self, waiter: Waiter, body: bytes, timeout_s: float) -> None:
        """Send a request, the JSON text `body`; `waiter` gets the answer."""
        if self._asking is None:
            waiter.done(RequestFailed(waiter.request, "none", self.state.value))
        else:
            self._asking.ask(waiter, body, timeout_s)

    def _hears_no_more(self) -> None:
        """The present socket ends, or is being closed: no reply comes over it any more, and no clock judges its silence."""
        if self._watch is not None:
            self._watch.stop()
        if self._asking is not None:
            self._asking.lost()

    @property
    def max_pending_requests(self) -> int:
        """So many requests may wait for their reply."""
        return self._host.settings.max_pending_requests

    @property
    def late_replies(self) -> int:
        """Replies that nobody waited for any more."""
        return 0 if self._asking is None else self._asking.late_replies
