"""A connection is changed in its life: what it is asked for becomes something else, all of it or nothing. On the I/O loop only."""

from __future__ import annotations

import msgspec

from mooring.changes import OF_ALL, Changes, changed, check_changes, given
from mooring.connection.asked import Known, check_clocks, resolve, shown_of
from mooring.connection.kept import KeptConnection
from mooring.connection.live import LiveConnection
from mooring.connection.secret_headers import check_secrets, has_templates
from mooring.connection.state import ConnectionState
from mooring.errors import ConnectionClosed, Invalid, InvalidRequest, NotKept, WrongState
from mooring.link.record import ConnectionCreated
from mooring.wire.secret_table import Secrets


def change(connection: LiveConnection, changes: Changes, secrets: Secrets, known: Known) -> None:
    """Change what `connection` is asked for.

    Raises:
        InvalidRequest, SecretNotAllowed: If what it would become is not valid.
        NotKept: If it is not kept, and anything but clocks is to be changed.
        WrongState, ConnectionClosed: If it is Closing, or Closed.
    """
    if connection.state is ConnectionState.CLOSED:
        raise ConnectionClosed(connection.id)
    if connection.state is ConnectionState.CLOSING:
        raise WrongState(connection.id, connection.state.value)
    wrong = check_changes(changes)
    if not isinstance(connection, KeptConnection):
        if not given(changes).keys() <= OF_ALL:
            raise NotKept(connection.id)
        if not wrong:
            _, wrong = check_clocks(connection.options, changes)
        if wrong:
            raise InvalidRequest(wrong)
        options, _ = check_clocks(connection.options, changes)
        created = msgspec.structs.replace(connection.created, asked=shown_of(options))
        connection.change(options, created)
        if connection.spec is not None:
            connection.spec = changed(connection.spec, changes)
        return
    if wrong:
        raise InvalidRequest(wrong)
    asked = changed(connection.asked, changes)
    options = resolve(asked, connection.handler, known)
    if connection.spec is None and options.reconnect is not None and options.reconnect.persist:
        raise InvalidRequest([Invalid("/reconnect/persist", "is for what a request has opened; code is not on disk")])
    was = connection.created
    if options.converses or has_templates(options.headers):
        check_secrets(options, secrets, declared=was.declared)
    created = ConnectionCreated.of(
        was.id,
        was.worker,
        was.handler,
        was.created_at_us,
        options,
        name=was.name,
        declared=was.declared,
        asked=shown_of(options),
        spec=asked if connection.spec is not None else None,
    )
    if created.kept is None:  # a handler that says so no more: who is kept stays so
        created = msgspec.structs.replace(created, kept=was.kept)
    connection.asked = asked
    connection.change(options, created)
