"""The life of a worker process from its settings to its exit code, however it was begun: exec'ed or forked."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import NoReturn

import msgspec
import uvloop

from mooring.link.messages import WorkerSettings
from mooring.process.forks import Forks, end_helpers
from mooring.process.worker import Worker, set_up_process
from mooring.queued_stream import QueuedStream

EXIT_OK = 0
EXIT_SETTINGS = 3
EXIT_INTERNAL = 4
FLUSH_TIMEOUT_S = 1.0  # for the log handlers of user code


def run(settings: bytes) -> NoReturn:
    """Be a worker, and end the process.

    Args:
        settings: JSON of `WorkerSettings`.
    """
    code, log = _work(settings)
    # User code may hold the locks of its log handlers for ever, and its threads may run on: neither keeps alive a worker
    # that was told to end.
    flush = threading.Thread(target=_flush, args=(log,), daemon=True)
    flush.start()
    flush.join(FLUSH_TIMEOUT_S)
    os._exit(code)


def leave_standard_input() -> None:
    """Nobody has anything more to say there: user code that reads it finds its end."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _work(encoded: bytes) -> tuple[int, QueuedStream | None]:
    """Work; return the exit code, and what of the log is on its way, if there is one."""
    try:
        settings = msgspec.json.decode(encoded, type=WorkerSettings)
    except msgspec.MsgspecError as exc:
        print(f"mooring: this command is started by the service; bad settings: {exc}", file=sys.stderr)
        return EXIT_SETTINGS, None
    log = set_up_process(settings)
    worker = Worker(settings)
    # Never closed, as uvloop.run would: that waits for names that are being looked up, however long nobody answers.
    loop = uvloop.new_event_loop()
    Forks(loop, worker.connections).begin()
    try:
        loop.run_until_complete(worker.run())
    # The top of the process: whatever mooring itself got wrong is logged, and the exit code says so.
    except Exception:
        logging.getLogger("mooring.worker").exception("the worker has failed")
        return EXIT_INTERNAL, log
    return EXIT_OK, log


def _flush(log: QueuedStream | None) -> None:
    end_helpers()
    if log is not None:
        log.finish()
    logging.shutdown()
    sys.stdout.flush()
