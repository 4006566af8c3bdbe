"""The service's log: one line per thing that an operator acts on; key=value on a terminal, JSON otherwise.

The floors below use the standard library's `logging`, with ``extra={"worker": …, "incarnation": …, "connection": …}``;
structlog renders it.
"""

from __future__ import annotations

import logging
from typing import Any, TextIO

import structlog

from mooring.process.repeats import Repeats
from mooring.queued_stream import QueuedStream
from mooring_api.rest.access_log import ACCESS
from mooring_service.config import LogConfig

log = logging.getLogger("mooring.serve")


class NoRawBytes(logging.Filter):
    """Keeps what strangers sent out of the log: aiohttp quotes the bytes that it could not parse."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the text, and drop the traceback, of what the parser has refused."""
        if record.exc_info is not None and record.exc_info[1] is not None:
            exc = record.exc_info[1]
            record.msg, record.args = "a request could not be parsed (%s)", (type(exc).__name__,)
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_NO_RAW_BYTES = NoRawBytes()


def _on_one_line(_logger: Any, _name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # What a server or user code has named may hold line breaks and escapes of the terminal; JSON spells them out anyway.
    line["event"] = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(line["event"]))
    return line


def _dropped(count: int) -> logging.LogRecord:
    text = "%d lines were dropped: nobody has read the log in time"
    record = log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (count,), None)
    record.dropped = count
    return record


def set_up(config: LogConfig, stream: TextIO | QueuedStream) -> None:
    """Have everything that is logged in this process written to `stream`."""
    terminal = stream.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(
            ("worker", "incarnation", "connection", "repeated", "dropped", "adoption_s", "setting")
        ),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    console = config.format == "console" or (config.format == "auto" and terminal)
    last: structlog.typing.Processor
    if console:
        shared.append(_on_one_line)
        # Plain: the default one prints the local variables of every frame, tokens and all.
        last = structlog.dev.ConsoleRenderer(
            colors=terminal, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    else:
        shared.append(structlog.processors.format_exc_info)
        last = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    if isinstance(stream, QueuedStream):
        stream.notice = lambda count: f"{handler.format(_dropped(count))}\n"
    repeats = Repeats()
    handler.addFilter(lambda record: record.name == ACCESS.name or repeats.filter(record))
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    ACCESS.setLevel(logging.INFO)  # it was asked for by its own setting
    logging.getLogger("aiohttp.server").addFilter(_NO_RAW_BYTES)
