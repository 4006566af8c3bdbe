"""Handlers to be constructed for requests: a constructor is user code, and waits for the context behind whatever runs there.

Until it has run there is no `Connection`, but the worker answers for the id: it can be terminated, `Hello` names it,
``connectTimeout`` runs, and messages may wait for it (`unmade`). What was given up is not opened when its handler is made at last.
"""

from __future__ import annotations

from functools import partial

import msgspec

from mooring.connection.asked import resolve
from mooring.deadline import Deadline
from mooring.errors import ErrCode, HandlerError, Invalid, InvalidRequest
from mooring.link.held import HeldConnection
from mooring.link.messages import Open, OpenInvalid
from mooring.link.messages_sent import QueueDropped, Send, SendFailed, SendQueued
from mooring.name_errors import SecretNotAllowed
from mooring.options import ConnectionOptions, effective
from mooring.usercode import handlers
from mooring.usercode.host import CodeHost
from mooring.usercode.unmade import Unmade


class _Waiting(msgspec.Struct):
    """An open, since when it waits (the loop's seconds), and until when; one that was open before waits for its turn."""

    command: Open
    since: float
    deadline: Deadline | None
    unmade: Unmade


class Constructions:
    """The opens that wait for their handler. On the I/O loop, but for what `begin` has the context do."""

    def __init__(self, host: CodeHost) -> None:
        self._host = host
        self._waiting: dict[int, _Waiting] = {}  # by connection
        self._given_up: dict[int, Unmade] = {}  # likewise, until `begin` asks for what waits

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, command: Open, reference: str) -> None:
        """Have the handler ``module:attribute`` made, and then the connection dialled."""
        host = self._host
        request = command.connection_request
        wanted = request.handler
        assert wanted is not None, "only a request that names a handler comes here"
        now = host.loop.time()
        overdue = None
        if command.resumed is None:
            # What the handler itself says of connectTimeout is not known before it is made.
            due = now + effective(request).connect_timeout_s
            overdue = Deadline(host.loop, due, partial(self._overdue, command.connection))
        self._waiting[command.connection] = _Waiting(command, now, overdue, Unmade(host, command))

        def make() -> None:
            # In the context: the constructor is user code, and what it opens (a database) belongs to that thread.
            if command.connection not in self._waiting:
                return  # terminated, or given up, before its turn came
            try:
                handler, options = handlers.make(reference, request, host.known)
            except HandlerError as exc:
                pointer = "/handler/params" if "constructed" in exc.detail else "/handler/name"
                host.post(self._failed, command.connection, [Invalid(pointer, exc.detail)])
            except InvalidRequest as exc:
                host.post(self._failed, command.connection, exc.errors)
            else:
                host.post(self._made, command.connection, options, handler)

        host.context.post_task(f"{wanted.name}()", make)

    def __contains__(self, connection: int) -> bool:
        return connection in self._waiting

    def status(self, connection: int) -> str:
        """Return the status of a connection to be; ``""``: it is none."""
        waiting = self._waiting.get(connection)
        return "" if waiting is None else waiting.unmade.update().status

    def send(self, command: Send) -> SendQueued | SendFailed:
        """Have messages wait for a connection to be, if they may."""
        waiting = self._waiting.get(command.connection)
        return SendFailed(command.request, 0, "") if waiting is None else waiting.unmade.send(command, waiting.command)

    def drop_queue(self, request: int, connection: int) -> QueueDropped:
        """Give up what waits for a connection to be."""
        waiting = self._waiting.get(connection)
        return QueueDropped(request, self._host.flush(), "") if waiting is None else waiting.unmade.drop(request)

    def take_unmade(self, connection: int) -> Unmade | None:
        """Return what waits for a connection that begins now, once."""
        return self._given_up.pop(connection, None)

    def _failed(self, connection: int, errors: list[Invalid]) -> None:
        command = self.give_up(connection)
        if command is not None:
            self._refuse(command, errors)

    def _refuse(self, command: Open, errors: list[Invalid], forbidden: SecretNotAllowed | None = None) -> None:
        # What was accepted is told of by the connection, which begins for that.
        if command.request and command.connection not in self._given_up:
            secret, host = ("", "") if forbidden is None else (forbidden.secret, forbidden.host)
            self._host.answer(OpenInvalid(command.request, errors, secret=secret, host=host))
        else:
            # Or nobody waits for the answer: the service that would have recorded the end is gone, or it has been opened before.
            begun = self._host.begin(command, effective(command.connection_request), None)
            text = "; ".join(error.detail for error in errors)
            begun.refuse(ErrCode.HANDLER_FAILED, text)

    def _made(self, connection: int, options: ConnectionOptions, handler: object) -> None:
        waiting = self._waiting.get(connection)
        command = self.give_up(connection)
        if waiting is None or command is None:
            return
        if command.resumed is None:  # else each attempt finds out
            try:
                self._host.check_secrets(options, declared=command.declared)
            except InvalidRequest as exc:
                self._refuse(command, [Invalid("/handler", error.detail) for error in exc.errors])
                return
            except SecretNotAllowed as exc:
                self._refuse(command, [Invalid("/handler", str(exc))], exc)
                return
        # The dial has what is left of the time; a kept connection has all of it for each of its attempts.
        left_s = waiting.since + options.connect_timeout_s - self._host.loop.time()
        if left_s <= 0 and command.resumed is None:
            self._too_late(command)
        elif options.reconnect is not None or command.resumed is not None:
            self._host.begin(command, options, handler)
        else:
            self._host.begin(command, msgspec.structs.replace(options, connect_timeout_s=left_s), handler)

    def _overdue(self, connection: int) -> None:
        command = self.give_up(connection)
        if command is not None:
            self._too_late(command)

    def _too_late(self, command: Open) -> None:
        # Without its handler: no callback has to wait for the context, and no other can follow.
        begun = self._host.begin(command, resolve(command.connection_request, known=self._host.known), None)
        begun.too_late("the worker did not come to its handler within connectTimeout")

    def give_up(self, connection: int) -> Open | None:
        """Make no handler for `connection`, or drop the one being made; return its open, None if none waits."""
        waiting = self._waiting.pop(connection, None)
        if waiting is None:
            return None
        if waiting.deadline is not None:
            waiting.deadline.cancel()
        if waiting.unmade.used:
            self._given_up[connection] = waiting.unmade
        return waiting.command

    def nobody_waits(self) -> None:
        """The link is lost, and with it who waited for the answers: what goes wrong from here on is an event."""
        for waiting in self._waiting.values():
            waiting.command = msgspec.structs.replace(waiting.command, request=0)

    def held(self) -> list[HeldConnection]:
        """Return what `Hello` says of them: a service that did not hear of them would take them for lost."""
        return [
            HeldConnection(
                self._host.created(
                    waiting.command, resolve(waiting.command.connection_request, known=self._host.known)
                ),
                waiting.unmade.update(),
                waiting.command.connection_request,
            )
            for waiting in self._waiting.values()
        ]
