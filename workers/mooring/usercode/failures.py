"""What user code raises, as an event and as a line of the log.

The thread of the context reports what callbacks and calls raise, the I/O loop what it must refuse.
"""

from __future__ import annotations

import contextlib
import logging

from mooring.connection.recorded import RecordedConnection
from mooring.events import CallbackErrorEvent, Kind, encode_event, now_us, worker_body
from mooring.link.messages import CallFailed
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring.usercode import handlers
from mooring.usercode.host import CodeHost

log = logging.getLogger("mooring.context")


class _Nobody:
    """Stands for the worker itself in the outbox: events without a connection."""

    id_bytes = bytes(8)
    recorded_seq = 0

    def take_created(self) -> ConnectionCreated | None:
        return None

    def update(self) -> ConnectionUpdate | None:
        return None

    def mark_ended(self) -> None:
        pass


def of_callback(callback: str, exc: BaseException) -> CallbackErrorEvent:
    """Return the event of what a callback has raised."""
    return CallbackErrorEvent(
        callback=callback,
        exception=handlers.exception_name(exc),
        message=handlers.message_of(exc),
        traceback=handlers.format_traceback(exc),
    )


def of_call(name: str, failed: CallFailed) -> CallbackErrorEvent:
    """Return the event of a call that has failed."""
    return CallbackErrorEvent(
        callback=name, exception=failed.exception, message=failed.message, traceback=failed.traceback
    )


def record(host: CodeHost, connection: RecordedConnection | None, error: CallbackErrorEvent) -> None:
    """Record an error: as an event of `connection`, or (None) of the worker."""
    if connection is not None:
        connection.record(host.outbox, Kind.callbackError, encode_event(error))
    else:
        body = worker_body(Kind.callbackError, host.worker, now_us(), error)
        host.outbox.add(_Nobody(), bytes((Kind.callbackError,)), body, 0)
    host.wake()


def write_line(connection: RecordedConnection | None, error: CallbackErrorEvent) -> None:
    """Write the line of an error. Never raises."""
    extra = {"connection": connection and connection.id, "exception": error.traceback.rstrip() or None}
    # User code may have put filters into logging; what they raise (SystemExit too) must not end the context.
    with contextlib.suppress(BaseException):
        log.error("%s has failed: %s: %s", error.callback, error.exception, error.message, extra=extra)
