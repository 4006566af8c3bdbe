"""The worker process: runtime and link, put together, and how they end."""

from __future__ import annotations

import asyncio
import faulthandler
import io
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from mooring import private_files
from mooring.connection.live import Left, LiveConnection
from mooring.deadline import within
from mooring.errors import MooringError
from mooring.link.link import Link
from mooring.link.messages import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Goodbye, Hello, Stop, WorkerSettings
from mooring.log_lines import LogLines
from mooring.process import identity, log_file
from mooring.process.commands import obey
from mooring.process.lease import LAPSED, Lease
from mooring.process.repeats import Repeats
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from mooring.queued_stream import QueuedStream
from mooring.usercode import current
from mooring.version import __version__

SERVICE_STOP_GRACE_S = 3.0  # for connections to close when there is no service, or none that wants this worker
SIGNAL_SHARE = 0.8  # of the time after which a SIGTERM is followed by a SIGKILL; the rest is for the last report
DEAF = "the thread of callbacks has ended"
LAST_RESORT_S = 60.0  # longer than any service waits that is still there

RESOLVER_THREADS = 32
"""Host names that user code looks up at once on the loop of its callbacks (dials have threads of their own). libuv gives look-ups
half of its threads, which are two unless told otherwise: names whose servers do not answer would keep all others waiting."""

log = logging.getLogger("mooring.worker")


class ExitRecord(msgspec.Struct, frozen=True):
    """Why a worker ended, for a service that was away then. Written beside the log, read at adoption."""

    incarnation: str
    pid: int
    reason: str
    unsent_frames: int
    ended_at_us: int


class Worker:
    """One worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._stop_wanted: asyncio.Event = asyncio.Event()
        self._stop: Stop | None = None
        self._runtime: Runtime | None = None

    def connections(self) -> list[LiveConnection]:
        """Return the connections that it holds."""
        return [] if self._runtime is None else list(self._runtime.connections.values())

    def _hello(self, pid: int) -> Hello:
        settings = self._settings
        return Hello(
            oldest_version=OLDEST_PROTOCOL_VERSION,
            version=PROTOCOL_VERSION,
            build=__version__,
            worker=settings.worker,
            incarnation=settings.incarnation,
            secret=settings.secret,
            pid=pid,
            started_at_ticks=identity.started_at_ticks(pid),
            boot_id=identity.boot_id(),
            first_unstored=0,
            connections=[],
            restarts=settings.restarts,
        )

    async def run(self) -> str:
        """Work until told to end; return why.

        Raises:
            MooringError: If no callback can run any more: the service is to start another process.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_failure)
        pid = os.getpid()
        lease = Lease()
        link = Link(
            self._settings,
            who=self._hello(pid),
            obey=lambda command: obey(runtime, command),
            stop=self._want_stop,
            extend=lease.extend,
        )
        self._runtime = runtime = Runtime(self._settings, link)
        link.runtime = runtime
        current.set_runtime(runtime)
        runtime.start()
        identity.settle_memory()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop = Stop(f"signal {number.name}", SIGNAL_SHARE * self._settings.kill_timeout_s)
            loop.add_signal_handler(number, self._want_stop, stop)
        # Meant for the service, but a service manager may send it to all of our processes: it ends none.
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP is for the service")
        settings = self._settings
        rotation = asyncio.create_task(
            log_file.keep_within(Path(settings.log_file), settings.log_max_bytes, settings.log_files)
        )
        linked = asyncio.create_task(link.run())
        wanted = asyncio.create_task(self._stop_wanted.wait())
        deaf = asyncio.create_task(runtime.context.thread.ended.wait())
        lapsed = asyncio.create_task(lease.lapsed())
        await asyncio.wait({linked, wanted, deaf, lapsed}, return_when=asyncio.FIRST_COMPLETED)
        failed, left = deaf.done(), _left(self._stop)
        if failed:
            reason, grace_s = DEAF, SERVICE_STOP_GRACE_S
        elif self._stop is not None:
            reason, grace_s = self._stop.reason, self._stop.grace_s
        elif lapsed.done():  # others may open what it holds: it waits for no peer
            reason, grace_s, left = LAPSED, 0.0, "cutOff"
        else:
            reason, grace_s = linked.result(), SERVICE_STOP_GRACE_S
        log.info("stopping: %s", reason)
        try:
            # Who told us to stop kills what does not end. If it is gone, a callback that never returns must not keep
            # this process for ever.
            async with within(2 * grace_s + LAST_RESORT_S):
                await run_down(runtime, reason, grace_s, left=left)
        except TimeoutError:
            log.warning("a callback does not return; ending without it")
        # Written first: if the goodbye is lost with the service, this is what its successor finds.
        self._write_exit_record(reason, pid, runtime.outbox.held_frames)
        if not failed:
            link.send(Goodbye(runtime.context.discarded, runtime.closed_by_stop))
        ending = (linked, wanted, deaf, lapsed, rotation)
        for task in ending:
            task.cancel()
        await link.close()
        await asyncio.gather(*ending, return_exceptions=True)
        if failed:
            raise MooringError(reason)
        return reason

    def _want_stop(self, stop: Stop) -> None:
        if self._stop is None:
            self._stop = stop
            self._stop_wanted.set()

    def _write_exit_record(self, reason: str, pid: int, unsent: int) -> None:
        record = ExitRecord(self._settings.incarnation, pid, reason, unsent, time.time_ns() // 1000)
        path = Path(self._settings.exit_record)
        try:
            private_files.write_text(path, msgspec.json.encode(record).decode())
        except OSError as exc:
            log.warning("the exit record cannot be written: %s", exc)


def _left(stop: Stop | None) -> Left:
    if stop is None:
        return ""
    return "drained" if stop.drain else "serviceStopped" if stop.persist else ""


def _dropped(count: int) -> logging.LogRecord:
    text = "%d lines were dropped: the log has not taken them in time"
    return log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (count,), None)


def _log_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio found wrong on the I/O loop: by its own logger it would reach the handlers of user code, which may wait."""
    exc = context.get("exception")
    log.error("%s", context.get("message"), exc_info=exc if isinstance(exc, BaseException) else None)


def set_up_process(settings: WorkerSettings) -> QueuedStream:
    """Make the process fit for user code: threads for names, the application's folders on the path, stack dumps, logging.

    Returns what is to be finished before the process ends: mooring's own lines on their way to the log.

    Standard output and error go to the worker's own log file: a pipe to the service would break with the service.
    """
    for stream in (sys.stdout, sys.stderr):
        # They are a file of our own: what may be printed does not depend on the locale. (Not by the environment: what user
        # code starts may print to somebody else.)
        assert isinstance(stream, io.TextIOWrapper), "the interpreter has just made them"
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    os.environ.setdefault("UV_THREADPOOL_SIZE", str(2 * RESOLVER_THREADS))  # read when the first thread is needed
    for folder in reversed(settings.app_dirs):
        sys.path.insert(0, folder)
    # SIGUSR1: the watchdog of the service asks for a stack dump of a worker that does not answer.
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    faulthandler.enable(file=sys.stderr)
    form = LogLines(settings.worker, settings.incarnation, as_json=settings.log_format == "json")
    # What mooring itself says is often said on the I/O loop, which waits for no disk; what user code says is said in its own threads.
    ours = QueuedStream(sys.stderr)
    ours.notice = lambda count: f"{form.format(_dropped(count))}\n"
    for name, stream in ((None, sys.stderr), ("mooring", ours)):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(form)
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    # What user code does to the root logger (a handler that blocks, a lock that is held) must not reach the I/O loop.
    own = logging.getLogger("mooring")
    own.propagate = False
    # A logger's filters see its own lines only: those about user code, which may fail thousands of times a second.
    logging.getLogger("mooring.context").addFilter(Repeats())
    return ours
