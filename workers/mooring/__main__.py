"""``python -m mooring``: a worker process, started by the service. Settings come on standard input.

Exit codes: 0 ended as told; 3 the settings cannot be read; 4 anything else that mooring itself did wrong.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

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


def main() -> tuple[int, QueuedStream | None]:
    """Run one worker; return the exit code, and the stream of the log, if it has got so far."""
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSettings)
    except msgspec.MsgspecError as exc:
        print(f"mooring: this command is started by the service; bad settings: {exc}", file=sys.stderr)
        return EXIT_SETTINGS, None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    stream = set_up_process(settings)

    worker = Worker(settings)
    # Never closed, as uvloop.run would: that waits for names that are being looked up, however long nobody answers.
    loop = uvloop.new_event_loop()
    Forks(loop, worker.connections).begin()
    try:
        loop.run_until_complete(worker.run())
    # The top of the process: whatever mooring itself got wrong is logged, and the exit code says so.
    except Exception:
        logging.getLogger("mooring.worker").exception("the worker has failed")
        return EXIT_INTERNAL, stream
    return EXIT_OK, stream


def _flush(stream: QueuedStream | None) -> None:
    end_helpers()
    if stream is not None:
        stream.finish()
    logging.shutdown()
    sys.stdout.flush()


if __name__ == "__main__":
    code, stream = main()
    # User code may hold the locks of its log handlers for ever, and its threads may run on: neither keeps alive a worker
    # that was told to end.
    flush = threading.Thread(target=_flush, args=(stream,), daemon=True)
    flush.start()
    flush.join(FLUSH_TIMEOUT_S)
    os._exit(code)
