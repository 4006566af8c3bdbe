"""A filter for loggers: what repeats is counted instead of written, so that a failure in a loop does not fill the disk."""

from __future__ import annotations

import logging
import time

REPEATS = 5  # lines from the same place about the same worker …
REPEAT_WINDOW_S = 10.0  # … within this time; the rest of them are counted
MAX_TRACKED = 1_000


class Repeats(logging.Filter):
    """Drops what repeats too often; the next line from that place says how many were dropped (also as ``repeated``).

    What is said of another worker (``extra={"worker": …}``) is not a repeat: eight workers that fail at once are eight lines.

    Args:
        window_s: Seconds in which `REPEATS` lines from one place may be written.
    """

    def __init__(self, window_s: float = REPEAT_WINDOW_S) -> None:
        super().__init__()
        self._window_s = window_s
        self._seen: dict[tuple[str, int, str | None], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to write `record`."""
        key = (record.pathname, record.lineno, getattr(record, "worker", None))
        now = time.monotonic()
        begun, count = self._seen.get(key, (now, 0))
        if now - begun > self._window_s:
            if count > REPEATS:
                record.repeated = count - REPEATS
                record.msg = f"{record.msg} ({count - REPEATS} lines like this one were not written)"
            begun, count = now, 0
        if len(self._seen) > MAX_TRACKED:
            self._seen.clear()
        self._seen[key] = (begun, count + 1)
        return count < REPEATS or record.levelno >= logging.CRITICAL
