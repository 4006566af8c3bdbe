"""Connections that code in the worker opens: an id is wanted, the I/O loop dials, and the thread that asked waits for both.

It knows nothing of the commands of the service. Its waits guard against a worker that stood still as a whole: each looks once more
before it says no.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

from mooring.connection.live import LiveConnection
from mooring.connection.state import ConnectionState
from mooring.deadline import PASS_S
from mooring.errors import ConnectError, ErrCode, ErrorEntry, LimitReached, MooringError
from mooring.handler_options import resolve
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.process.ids import ConnectionIds
from mooring.usercode.handlers import check, class_name

IO_LOOP_S = 30.0  # beyond connectTimeout, which the dial keeps itself: for an I/O loop that does not come to it


class Opener(Protocol):
    """What is asked of the worker; all but `post` on the I/O loop."""

    stopping: bool
    post: Callable[..., None]

    def check_limit(self) -> None:
        """Make sure that there may be one connection more."""

    def begin_own(
        self, connection: int, options: ConnectionOptions, handler: object | None, name: str | None
    ) -> LiveConnection:
        """Dial for code in this worker."""

    def give_up(self, connection: int) -> None:
        """Terminate what nobody waits for any more."""


class OwnOpens:
    """Opens for code in one worker, from any thread of it but the I/O loop's."""

    def __init__(self, opener: Opener, ids: ConnectionIds) -> None:
        self._opener = opener
        self._ids = ids

    def open(self, request: ConnectionRequest, handler: object | None) -> LiveConnection:
        """Open a connection for code in this worker, and wait until the dial has ended well.

        Raises:
            InvalidRequest: If the url, a callback of the handler, or what it asks for, is not valid.
            ConnectError: If the dial fails.
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
            MooringError: If the worker is being killed, or no connection id can be had while the service is away.
        """
        if handler is not None:
            check(handler)
        options = resolve(request, handler)
        if self._opener.stopping:
            raise MooringError("the worker is being killed")
        self._opener.check_limit()
        id_wanted: Future[int] = Future()
        self._opener.post(self._ids.want, id_wanted)
        # Once more, shortly: if the whole worker stood still, the I/O loop has not yet seen what the service has granted.
        for patience_s in (options.connect_timeout_s, PASS_S):
            wait((id_wanted,), patience_s)
        if id_wanted.cancel():
            raise MooringError("no connection id: the service is away, and the worker's block of ids is used up")
        connection_id = id_wanted.result()
        opened: Future[LiveConnection] = Future()
        name = None if handler is None else class_name(handler)

        def begin() -> None:
            try:
                self._opener.check_limit()  # again: here nobody comes in between
            except LimitReached as exc:
                opened.set_exception(exc)
                return
            self._opener.begin_own(connection_id, options, handler, name).when_opened(opened)

        self._opener.post(begin)
        try:
            # The dial has its own deadline; this one only guards against the I/O loop itself.
            connection = opened.result(options.connect_timeout_s + IO_LOOP_S)
        except TimeoutError:
            self._opener.post(self._opener.give_up, connection_id)
            raise ConnectError([ErrorEntry(ErrCode.CONNECT_TIMEOUT, "the worker did not come to it in time")]) from None
        # Not `errors`: one that opened may have failed meanwhile; a kept one may go on trying.
        if connection.opened_at_us is None and connection.state is ConnectionState.CLOSED:
            raise ConnectError(connection.errors, connection_id)
        return connection
