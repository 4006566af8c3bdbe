"""A connection as far as requests go over it: messages pass through on their way to the journal or the handler. On the I/O loop only."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mooring.connection import received
from mooring.connection.asked import requests_of
from mooring.connection.asking import Asking, Found, Waiter
from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.connection.requests import Ids
from mooring.connection.sends import Sends
from mooring.errors import ErrCode
from mooring.link.messages_sent import RequestFailed
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions
from mooring.wire.frames import INVALID_DATA
from mooring.wire.outbound import Outbound


class AskingConnection(RecordedConnection, ABC):
    """A connection that may have ``requests``.

    Args:
        last_socket: Number of its last socket, where another process of the worker had it.
    """

    __slots__ = ("_asking", "_host", "_sends")

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        last_socket: int = 0,
    ) -> None:
        super().__init__(created, options, handler)
        self._host = host
        self._sends: Sends = Sends(host, self)
        protocol = requests_of(options)
        self._asking = None if protocol is None else Asking(host, self, self, protocol, Ids(last_socket))

    @property
    def sends(self) -> Sends:
        """What is sent on it."""
        return self._sends

    @property
    @abstractmethod
    def open_outbound(self) -> Outbound | None:
        """Where messages go just now; None: no socket is ready."""

    @abstractmethod
    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""

    @abstractmethod
    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Take that something is wrong; with a `close_code` say so on the wire and give the peer time to answer."""

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        """Record the messages of one read; whoever waits for one of them gets it."""
        asking = self._asking
        found: list[Found] = []
        if asking is not None:
            items, found = asking.take(items)
        before, counted = self.seq, self.messages_in
        wrong = received.take(self._host, self, items) if items else None
        if found and asking is not None:
            asking.answer(found, self.messages_in - counted, before + 1 if self.handler is None else 0)
        if wrong is not None:
            self.failed(ErrCode.INVALID_DATA, f"the server sent {wrong}", INVALID_DATA)

    def may_read(self) -> bool:
        """Say whether every queue that this connection feeds has room."""
        return received.has_room(self._host, self, waited_for=self._asking is not None and self._asking.code_waits)

    def ask(self, waiter: Waiter, body: bytes, timeout_s: float) -> None:
        """Send a request, the JSON text `body`; `waiter` gets the answer."""
        if self._asking is None:
            waiter.done(RequestFailed(waiter.request, "none", self.state.value))
        else:
            self._asking.ask(waiter, body, timeout_s)

    def _replies_lost(self) -> None:
        """The present socket ends: no reply comes over it any more."""
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
