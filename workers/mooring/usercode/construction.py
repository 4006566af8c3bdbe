"""Handlers to be constructed for requests: a constructor is user code, and waits for the context behind whatever runs there.

Until it has run there is no `Connection`, but the worker answers for the id: it can be terminated, and `Hello` names it.
"""

from __future__ import annotations

import msgspec

from mooring.connection.state import ConnectionState
from mooring.errors import HandlerError, Invalid, InvalidRequest
from mooring.handler_options import resolve
from mooring.link.messages import HeldConnection, Open, OpenInvalid
from mooring.link.record import ConnectionUpdate
from mooring.options import ConnectionOptions
from mooring.usercode import handlers
from mooring.usercode.host import CodeHost


class Constructions:
    """The opens that wait for their handler. On the I/O loop, but for what `begin` has the context do."""

    def __init__(self, host: CodeHost) -> None:
        self._host = host
        self._waiting: dict[int, Open] = {}  # by connection

    def begin(self, command: Open, reference: str) -> None:
        """Have the handler ``module:attribute`` made, and then the connection dialled."""
        host = self._host
        request = command.connection_request
        wanted = request.handler
        assert wanted is not None, "only a request that names a handler comes here"
        self._waiting[command.connection] = command

        def make() -> None:
            # In the context: the constructor is user code, and what it opens (a database) belongs to that thread.
            if command.connection not in self._waiting:
                return  # terminated before its turn came
            try:
                handler, options = handlers.make(reference, request)
            except HandlerError as exc:
                pointer = "/handler/params" if "constructed" in exc.detail else "/handler/name"
                host.post(self._failed, command.connection, [Invalid(pointer, exc.detail)])
            except InvalidRequest as exc:
                host.post(self._failed, command.connection, exc.errors)
            else:
                host.post(self._made, command.connection, options, handler)

        host.context.post_task(f"{wanted.name}()", make)

    def _failed(self, connection: int, errors: list[Invalid]) -> None:
        command = self.give_up(connection)
        if command is None:
            return
        if command.request:
            self._host.answer(OpenInvalid(command.request, errors))
        else:
            # The service that would have recorded the end is gone.
            begun = self._host.begin(command, resolve(command.connection_request), None)
            begun.terminate(None, "; ".join(error.detail for error in errors))

    def _made(self, connection: int, options: ConnectionOptions, handler: object) -> None:
        command = self.give_up(connection)
        if command is not None:
            self._host.begin(command, options, handler)

    def give_up(self, connection: int) -> Open | None:
        """Make no handler for `connection`, or drop the one being made; return its open, None if none waits."""
        return self._waiting.pop(connection, None)

    def nobody_waits(self) -> None:
        """The link is lost, and with it who waited for the answers: what goes wrong from here on is an event."""
        self._waiting = {
            connection: msgspec.structs.replace(command, request=0) for connection, command in self._waiting.items()
        }

    def held(self) -> list[HeldConnection]:
        """Return what `Hello` says of them: a service that did not hear of them would take them for lost."""
        return [
            HeldConnection(
                self._host.created(command, resolve(command.connection_request)),
                ConnectionUpdate(connection, ConnectionState.CONNECTING.value),
            )
            for connection, command in self._waiting.items()
        ]
