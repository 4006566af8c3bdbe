"""How the worker's log is written: one line each, JSON or text, with the connection whose callback runs. Leaf.

The keys are those of the service's own log, so that one query finds the lines of both.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar

_T = TypeVar("_T")

running_connection: ContextVar[int | None] = ContextVar("running_connection", default=None)
"""The id of the connection whose callback runs in this context; tasks and threads (`asyncio.to_thread`) that a callback
starts take it along."""


def _extra(record: logging.LogRecord, name: str, kind: type[_T]) -> _T | None:
    # User code may use the same names for what it likes.
    value = getattr(record, name, None)
    return value if isinstance(value, kind) else None


class LogLines(logging.Formatter):
    """Formats what mooring and user code log in a worker.

    Args:
        worker: Its name, on every line.
        incarnation: Which process of that name it is, on every line.
        as_json: One JSON object a line; otherwise text, in which a traceback takes lines of its own.
    """

    def __init__(self, worker: str, incarnation: str, *, as_json: bool) -> None:
        super().__init__()
        self._worker = worker
        self._incarnation = incarnation
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        connection = _extra(record, "connection", int)
        if connection is None:
            connection = running_connection.get()
        exception = _extra(record, "exception", str)
        if exception is None and record.exc_info:
            exception = self.formatException(record.exc_info)
        if record.stack_info:
            exception = f"{exception}\n{record.stack_info}" if exception else record.stack_info
        timestamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        message = record.getMessage()
        if not self._as_json:
            of_connection = f" connection={connection}" if connection is not None else ""
            where = f"worker={self._worker} incarnation={self._incarnation}{of_connection}"
            text = f"{timestamp[:23]}Z {where} {record.levelname} {record.name}: {message}"
            return f"{text}\n{exception}" if exception else text
        line: dict[str, Any] = {
            "event": message,
            "level": record.levelname.lower(),
            "logger": record.name,
            "worker": self._worker,
            "incarnation": self._incarnation,
        }
        if connection is not None:
            line["connection"] = connection
        if (repeated := _extra(record, "repeated", int)) is not None:
            line["repeated"] = repeated
        if exception is not None:
            line["exception"] = exception
        line["timestamp"] = timestamp.replace("+00:00", "Z")
        return json.dumps(line)  # msgspec refuses lone surrogates, which user code may well log
