"""The service's log: one line per thing that an operator acts on; key=value on a terminal, JSON otherwise.

The floors below use the standard library's `logging`, with ``extra={"worker": …, "incarnation": …, "connection": …}``;
structlog renders it. What repeats is counted instead of written.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import structlog

from mooring_service.config import LogConfig

REPEATS = 5  # lines of the same text from the same place …
REPEAT_WINDOW_S = 10.0  # … within this time; the rest of them are counted
MAX_TRACKED = 1_000


class Repeats(logging.Filter):
    """Drops what repeats too often, and says how many lines that were."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to write `record`."""
        key = (record.pathname, record.lineno)
        now = time.monotonic()
        begun, count = self._seen.get(key, (now, 0))
        if now - begun > REPEAT_WINDOW_S:
            if count > REPEATS:
                record.repeated = count - REPEATS
            begun, count = now, 0
        if len(self._seen) > MAX_TRACKED:
            self._seen.clear()
        self._seen[key] = (begun, count + 1)
        return count < REPEATS or record.levelno >= logging.CRITICAL


def set_up(config: LogConfig, stream: TextIO = sys.stderr) -> None:
    """Have everything that is logged in this process written to `stream`."""
    terminal = stream.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(("worker", "incarnation", "connection", "repeated", "adoption_s", "setting")),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    console = config.format == "console" or (config.format == "auto" and terminal)
    last: structlog.typing.Processor
    if console:
        last = structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0)
    else:
        shared.append(structlog.processors.format_exc_info)
        last = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    handler.addFilter(Repeats())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
