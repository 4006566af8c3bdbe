"""How connections of a worker come to be: for requests, and for code in it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

from mooring.connection.asked import opening_time_s, resolve, shown_of
from mooring.connection.connection import Connection
from mooring.connection.kept import KeptConnection
from mooring.connection.live import Left, LiveConnection
from mooring.connection.secret_headers import check_secrets, has_templates
from mooring.connection.state import ConnectionState
from mooring.deadline import PASS_S, result_of
from mooring.errors import ConnectError, ErrCode, ErrorEntry, Invalid, InvalidRequest, LimitReached, MooringError
from mooring.events import now_us
from mooring.handler_options import blame_handler
from mooring.link.messages import Open
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.process.ids import ConnectionIds
from mooring.usercode.construction import Constructions
from mooring.usercode.handlers import check, class_name
from mooring.usercode.host import CodeHost
from mooring.usercode.websocket import WebSocket
from mooring.wire.dial import Dialler

IO_LOOP_S = 30.0  # beyond connectTimeout: the I/O loop is not so late


def _attempt_s(options: ConnectionOptions) -> float:
    """Return how long a first attempt may take; with ``first: "retry"`` it may wait for its turn before."""
    turns = 2 if options.reconnect is not None and options.reconnect.first == "retry" else 1
    return turns * options.connect_timeout_s + opening_time_s(options)


class Opener(CodeHost, Protocol):
    """The worker, as far as it opens connections.

    Attributes:
        connections: By id, until their last event is in the outbox.
        constructions: Connections to be, whose handler is still to be constructed.
        stopping: Set once the worker runs down: nothing new begins.
        left: Likewise: who goes on with the kept connections (`live.Left`).
        full_at: How many connections the service holds, if these are all that it may; else 0.
    """

    connections: dict[int, LiveConnection]
    constructions: Constructions
    dialler: Dialler
    stopping: bool
    left: Left
    full_at: int


class Openings:
    """What opens the connections of one worker. `open` is for every thread but the I/O loop, the rest for that alone.

    Args:
        ask_ids: Asks the service for a further block of ids.
    """

    def __init__(self, worker: Opener, ask_ids: Callable[[], None]) -> None:
        self._worker = worker
        self._ids = ConnectionIds(ask_ids)
        self.grant_ids = self._ids.grant

    def check_limit(self) -> None:
        """Say whether a further connection may be.

        Raises:
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
        """
        if len(self._worker.connections) + len(self._worker.constructions) >= self._worker.settings.max_connections:
            raise LimitReached("limits.max_connections_per_worker", self._worker.settings.max_connections)

    def _check_own_limit(self) -> None:
        """Likewise, for code in the worker: requests were counted by the service."""
        if self._worker.full_at:
            raise LimitReached("limits.max_connections", self._worker.full_at)
        self.check_limit()

    def check_secrets(self, options: ConnectionOptions, *, declared: bool) -> None:
        """Say whether the secrets that `options` need are there, and may go where it goes.

        Raises:
            InvalidRequest, SecretNotAllowed: If not.
        """
        if options.converses or has_templates(options.headers):
            check_secrets(options, self._worker.dialler.secrets, declared=declared)

    def created(self, command: Open, options: ConnectionOptions) -> ConnectionCreated:
        """Return the unchanging part of the record of what `command` opens."""
        request = command.connection_request
        return ConnectionCreated.of(
            command.connection,
            self._worker.worker,
            None if request.handler is None else request.handler.name,
            command.created_at_us or now_us(),
            options,
            name=request.name or None,
            declared=command.declared,
            asked=shown_of(options),
            spec=request,
            attempt_s=0.0 if request.handler is None else _attempt_s(options),
        )

    def begin(self, command: Open, options: ConnectionOptions, handler: object | None) -> LiveConnection:
        """Dial for a request, once its handler (if it names one) is there."""
        return self._begin(self.created(command, options), options, handler, command)

    def _begin(
        self, created: ConnectionCreated, options: ConnectionOptions, handler: object | None, command: Open | None
    ) -> LiveConnection:
        resumed = None if command is None else command.resumed
        connection: LiveConnection
        if options.reconnect is None and resumed is None:
            connection = Connection(self._worker, created, options, handler)
            if command is not None and command.handler is None:
                connection.created_is_stored()
            if created.name is not None and command is not None:
                connection.spec = command.connection_request
        else:
            spec = None if command is None else command.connection_request
            connection = KeptConnection(self._worker, created, options, handler, resumed, spec)
        if handler is not None:
            connection.websocket = WebSocket(self._worker, connection)
        self._worker.connections[created.id] = connection
        unmade = self._worker.constructions.take_unmade(created.id)
        if unmade is not None and isinstance(connection, KeptConnection):
            connection.take_over(unmade.queue, unmade.dropped)
        connection.dial(0 if command is None else command.request)
        if self._worker.stopping:
            connection.let_go("the worker is being killed", left=self._worker.left)
        return connection

    def open(self, request: ConnectionRequest, handler: object | None) -> LiveConnection:
        """Open a connection for code in this worker, and wait until the dial has ended well.

        Raises:
            InvalidRequest: If the url, a callback of the handler, or what it asks for, is not valid.
            SecretNotAllowed: If a secret of its headers is not bound to the host.
            ConnectError: If the dial fails.
            LimitReached: If ``limits.max_connections_per_worker`` is reached, or ``limits.max_connections`` (but for what all workers
                have opened within the same moment).
            MooringError: If the worker is being killed, or no connection id can be had while the service is away.
        """
        if handler is not None:
            check(handler)
        options = resolve(request, handler, self._worker.known)
        self.check_secrets(options, declared=False)
        if options.reconnect is not None and options.reconnect.persist:
            wrong = Invalid("/reconnect/persist", "is for what a request names; what code opens is on no disk")
            raise InvalidRequest([blame_handler(wrong, request, handler)])
        if self._worker.stopping:
            raise MooringError("the worker is being killed")
        self._check_own_limit()
        id_wanted: Future[int] = Future()
        self._worker.post(self._ids.want, id_wanted)
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
                self._check_own_limit()  # again: here nobody comes in between
            except LimitReached as exc:
                opened.set_exception(exc)
                return
            created = ConnectionCreated.of(
                connection_id, self._worker.worker, name, now_us(), options, asked=shown_of(options)
            )
            self._begin(created, options, handler, None).when_opened(opened)

        self._worker.post(begin)
        try:
            # The dial and the opening have their own deadlines; this one only guards against the I/O loop itself.
            connection = result_of(opened, options.connect_timeout_s + opening_time_s(options) + IO_LOOP_S)
        except TimeoutError:
            self._worker.post(self._give_up, connection_id)
            raise ConnectError([ErrorEntry(ErrCode.CONNECT_TIMEOUT, "the worker did not come to it in time")]) from None
        # Not `errors`: one that opened may have failed meanwhile; a kept one may go on trying.
        if connection.opened_at_us is None and connection.state is ConnectionState.CLOSED:
            raise ConnectError(connection.errors, connection_id)
        return connection

    def _give_up(self, connection_id: int) -> None:
        connection = self._worker.connections.get(connection_id)
        if connection is not None:
            connection.terminate(None, "whoever opened it waits no longer")
