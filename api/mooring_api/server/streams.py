"""The standard streams of the service: queued, and what of them a restart leaves unwritten is told by the next program."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import Any

from mooring.queued_stream import QueuedStream

LOST = "_MOORING_LINES_LOST"
"""For the program that takes over this process: how many lines of the log, and of the output, nobody has taken in time."""

log = logging.getLogger("mooring.serve")


def queue_standard_streams() -> tuple[QueuedStream, QueuedStream]:
    """Have whatever is printed from now on, by anybody in this process, go through queues; return (output, errors)."""
    output = QueuedStream(sys.stdout, failed=lambda exc: log.warning("standard output takes nothing: %s", exc.strerror))
    errors = QueuedStream(sys.stderr)
    streams: Any = (output, errors)
    sys.stdout, sys.stderr = streams
    atexit.register(finish_standard_streams)
    return output, errors


def finish_standard_streams() -> int:
    """Wait for what is queued, within a deadline: before the process ends. Returns how many lines of the log were left unwritten."""
    unwritten = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, QueuedStream):
            stream.finish()
            unwritten = stream.unwritten
    return unwritten  # of the last one


def follows_another() -> bool:
    """Say whether this is the next program of a process: until `tell_lost`."""
    return LOST in os.environ


def leave_standard_streams() -> None:
    """Another program is about to take over this process: what is queued goes out, or is told by that one."""
    os.environ[LOST] = str(finish_standard_streams())


def tell_lost(errors: QueuedStream) -> None:
    """Say what an earlier program of this process has left unwritten."""
    lost = os.environ.pop(LOST, "")
    errors.begin_with(int(lost) if lost.isdecimal() else 0)
