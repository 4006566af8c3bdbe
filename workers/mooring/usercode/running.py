"""What user code is doing just now, how long its items took, and what they have raised. Written by the context's thread."""

from __future__ import annotations

import time

from mooring.connection.recorded import RecordedConnection
from mooring.usercode import failures
from mooring.usercode.host import CodeHost


class Running:
    """The item under way.

    Attributes:
        item: Its name and begin (monotonic seconds), or None.
        errors: How many items have raised.
    """

    def __init__(self, host: CodeHost) -> None:
        self._host = host
        self._observe = host.metrics.callback.observe
        self.item: tuple[str, float] | None = None
        self.errors = 0

    def begin(self, name: str) -> None:
        """An item begins."""
        self.item = (name, time.monotonic())

    def end(self) -> None:
        """It has ended, well or not."""
        item, self.item = self.item, None
        if item is not None:
            self._observe(time.monotonic() - item[1])

    def raised(self, connection: RecordedConnection | None, callback: str, exc: BaseException) -> None:
        """It has raised: that is counted, written into the log, and an event of `connection` (None: of the worker)."""
        self.errors += 1
        error = failures.of_callback(callback, exc)
        failures.write_line(connection, error)
        failures.record(self._host, connection, error)
