"""`WebSocket`: what callbacks are handed, and what code in a worker opens. 4D's ``4D.WebSocket``, in Python.

A thin face of a connection that any thread of the worker may use, except the I/O loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from mooring.checks import check_close, check_delay
from mooring.connection.kept import KeptConnection
from mooring.connection.live import LiveConnection
from mooring.connection.state import ConnectionState
from mooring.deadline import result_of
from mooring.errors import ConnectionClosed, Invalid, InvalidRequest, NotKept, WrongState
from mooring.handler_options import changes_of
from mooring.link.messages import Reconnect
from mooring.link.record import Down
from mooring.options import ConnectionRequest
from mooring.parameters import plain
from mooring.usercode import current as process
from mooring.usercode import sending
from mooring.usercode.host import CodeHost


class WebSocket:
    """One WebSocket client connection. Make it with `WebSocket.new`; all properties are read-only."""

    __slots__ = ("_connection", "_host", "_terminated")

    def __init__(self, host: CodeHost, connection: LiveConnection) -> None:
        self._host = host
        self._connection = connection
        self._terminated = False  # `terminate` was called; the I/O loop may not have come to it yet

    @staticmethod
    def new(url: str, handler: object | None = None) -> WebSocket:
        """Open a connection and return it once the handshake has ended (4D: ``4D.WebSocket.new``).

        The callbacks of `handler` run in the worker's context when it is free; called inside a callback or call: after it.
        Works from ``def`` and ``async def`` alike; it blocks the context for at most ``connect_timeout`` seconds.

        Args:
            url: ``ws://host[:port]path[?query]`` or ``wss://…``, without fragment.
            handler: Any object; `on_open`, `on_message`, `on_error`, `on_terminate` and the create options
                (`data_type`, `headers`, …) are read from its attributes, all optional.

        Raises:
            InvalidRequest: If `url` or an option of the handler is not valid.
            ConnectError: If the connection could not be made; `errors` is 4D's list. ``on_error`` and
                ``on_terminate`` of the handler run as well.
            MooringError: If the worker is being killed, holds as many connections as it may, or can have no
                connection id because the service has been away for long.
            RuntimeError: If the caller is not inside a worker.
        """
        if not isinstance(url, str):
            raise InvalidRequest([Invalid("/url", f"must be text, not {type(url).__name__}")])
        current = process.runtime()
        connection = current.open(ConnectionRequest(url=plain(url), worker=current.worker), handler)
        made: WebSocket | None = connection.websocket
        return made or WebSocket(current, connection)

    @property
    def id(self) -> int:
        """The connection's id, unique for the life of the state directory."""
        return self._connection.id

    @property
    def url(self) -> str:
        """The text that was passed."""
        return self._connection.options.url

    @property
    def status(self) -> str:
        """``"Connecting"``, ``"Connected"``, ``"Closing"`` or ``"Closed"``; of a kept one, between two sockets ``"Reconnecting"``."""
        return self._state.value

    @property
    def _state(self) -> ConnectionState:
        state = self._connection.state
        return ConnectionState.CLOSING if self._terminated and state is ConnectionState.CONNECTED else state

    @property
    def ready(self) -> bool:
        """Whether messages can be sent and come just now."""
        return self._state is ConnectionState.CONNECTED

    @property
    def socket(self) -> int:
        """Number of the present or last socket that was ready, from 1; 0 before the first."""
        connection = self._connection
        if isinstance(connection, KeptConnection):
            return connection.number
        return 0 if connection.opened_at_us is None else 1

    @property
    def down(self) -> Down | None:
        """What a kept connection without a ready socket does to get one; else None."""
        return self._connection.down if isinstance(self._connection, KeptConnection) else None

    @property
    def data_type(self) -> str:
        """``"text"``, ``"blob"``, ``"object"`` or ``"auto"``: what `on_message` gets (4D: ``dataType``)."""
        return self._connection.options.data_type

    @property
    def handler(self) -> object | None:
        """The object whose callbacks this connection runs."""
        return self._connection.handler

    def send(
        self,
        message: str | bytes | bytearray | memoryview | dict[Any, Any] | list[Any],
        *,
        when_down: str | None = None,
        ttl: float | None = None,
    ) -> int | None:
        """Send one message: text → text frame, bytes → binary frame, dict or list → JSON in a text frame.

        It returns when the message is on its way; while the peer does not read and the outbound queue is full, it
        waits up to ``send_timeout``. Any thread of the worker may call it.

        Args:
            when_down: What becomes of it while a kept connection has no socket that is ready: ``"fail"`` or ``"queue"``;
                None: as the connection was opened with.
            ttl: For how many seconds it may wait then, 0.1 to 86,400; None: likewise.

        Returns:
            None; or its number in the queue, by which `on_unsent` names what was not sent after all.

        Raises:
            InvalidRequest: If `when_down` or `ttl` is not valid.
            NotKept: If it is to be queued and the connection was opened without ``reconnect``.
            QueueFull: If there is no room for it to wait.
            WrongState: If the connection is Connecting, Reconnecting or Closing, also if it becomes so while the message waits.
            ConnectionClosed: If it is Closed, likewise.
            SendError: If the peer has not read for ``send_timeout``.
            TypeError: If `message` is of another type, or not JSON.
            UnicodeEncodeError: If `message` is text with a lone surrogate (inside an object it is sent escaped).
        """
        return sending.send(self._host, self._connection, self._state, message, when_down, ttl)

    def request(self, value: dict[Any, Any] | list[Any], timeout: float = 10.0) -> Any:
        """Send a request and return the value of its reply; it blocks until then, also inside a callback.

        The id is set where `requests` of the connection says, unless the value has one. In an ``async def``: `request_async`.

        Args:
            timeout: Seconds, 0.1 to 600.

        Raises:
            PeerError: If the reply is an error of the peer (`reply`).
            ReplyTimeout, ReplyLost: If none has come; it may have been done.
            NoRequests: If the connection was opened without ``requests``.
            IdInUse, LimitReached, WrongState, ConnectionClosed, SendError, InvalidRequest: If nothing was sent, and why.
        """
        return sending.reply_of(self._connection, sending.ask(self._host, self._connection, value, timeout), timeout)

    async def request_async(self, value: dict[Any, Any] | list[Any], timeout: float = 10.0) -> Any:
        """As `request`, for an ``async def``: other coroutines go on meanwhile."""
        asked = sending.ask(self._host, self._connection, value, timeout)
        return sending.value_of(self._connection, await asyncio.wrap_future(asked))

    def reconnect(self, *, delay: float = 0.0, code: int = 1000, reason: str = "") -> None:
        """Get a new socket for a kept connection: the one that it has is closed; it returns at once, events tell the rest.

        Who asks while one is on its way gets that one.

        Args:
            delay: So many seconds later, 0 to 86,400.
            code: Of the close frame: 1000, or 3000 to 4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            InvalidRequest: If one of them is not valid.
            NotKept: If the connection was opened without ``reconnect``.
            WrongState: If it is Closing.
            ConnectionClosed: If it is Closed.
        """
        reason = plain(reason)
        wrong = check_close(code, reason) + check_delay(delay)
        if wrong:
            raise InvalidRequest(wrong)
        kept = self._kept()
        if self._state is ConnectionState.CLOSED:
            raise ConnectionClosed(self.id)
        if self._state is ConnectionState.CLOSING:
            raise WrongState(self.id, self.status)
        self._host.post(kept.reconnect, Reconnect(0, self.id, delay, code, reason))

    def update(self, **options: Any) -> None:
        """Change what the connection is asked for, from its next attempt on; clocks, and what sends do while it is down, at once.

        Args:
            options: `url`, `headers`, `reconnect`, `recipe`, `keep_alive`, `data_timeout`, `when_down`, `queue_ttl`, as attributes of
                a handler say them. Each replaces what there was of it; None puts the default back (the handler's, where it has one).

        Raises:
            InvalidRequest: If one of them is unknown or not valid; nothing is changed then.
            SecretNotAllowed: If a secret of the headers is not bound to the host.
            NotKept: If the connection was opened without ``reconnect``, and anything but `keep_alive` and `data_timeout` is given.
            WrongState: If it is Closing.
            ConnectionClosed: If it is Closed.
        """
        changes = changes_of(options)
        if self._terminated and self._connection.state is not ConnectionState.CLOSED:
            raise WrongState(self.id, self.status)
        done: Future[None] = Future()
        self._host.post(self._host.change, self._connection, changes, done)
        result_of(done, sending.IO_LOOP_S)

    def fill(self, items: Iterable[Any]) -> None:
        """Put what was fetched elsewhere in front of the messages that have come: in ``on_open`` or ``on_reconnect`` alone.

        Each becomes an ``onMessage`` with `filled`, and runs ``on_message``, in order, once the callback has returned.

        Args:
            items: As the data type gives them: text, bytes, or JSON values.

        Raises:
            NotKept: If the connection was opened without ``reconnect``.
            RuntimeError: If neither ``on_open`` nor ``on_reconnect`` of this connection is running.
            TypeError: If one of `items` is not of the data type; none is taken then.
            LimitReached: If one callback fills more than ``worker.mailbox_bytes``.
        """
        if self._kept().fill(items) is None:
            raise RuntimeError("fill is for on_open and on_reconnect, while they run")

    def _kept(self) -> KeptConnection:
        if not isinstance(self._connection, KeptConnection):
            raise NotKept(self.id)
        return self._connection

    def terminate(self, code: int | None = None, reason: str | None = None) -> None:
        """Close the connection, after what was sent before; it returns at once, ``on_terminate`` tells the end.

        Args:
            code: 1000 (the default) or 3000 to 4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            InvalidRequest: If code or reason may not be sent; the socket is not touched then.
        """
        reason = plain(reason)
        wrong = check_close(code, reason)
        if wrong:
            raise InvalidRequest(wrong)
        self._terminated = True
        self._host.post(self._connection.terminate, code, reason)

    def __repr__(self) -> str:
        return f"<WebSocket {self.id} {self.status}>"
