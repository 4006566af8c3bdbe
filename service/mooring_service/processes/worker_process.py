"""One worker process: exec, identity, signals, exit status. It knows one child, not when to start it.

A worker may be our child or one that a service before us started; either way it is held by a pidfd, so that a signal
never reaches another process that got its number. Linux only, and this is the seam.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mooring import private_files
from mooring.link.messages import WorkerSettings
from mooring.process import identity
from mooring.process.worker import ExitRecord
from mooring_service.processes import execution

PROGRAM = (*execution.PYTHON, "-m", "mooring")  # the worker's name is its last argument

_MFD_NOEXEC_SEAL = 8  # memfd_create(2): a hardened system makes no other files of this kind (vm.memfd_noexec)

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

log = logging.getLogger("mooring.supervisor")


class ProcessIdentity(msgspec.Struct, frozen=True):
    """What tells a process from any other that may get its pid. `pid` 0: not yet known."""

    pid: int
    started_at_ticks: int
    boot_id: str


class Exit(msgspec.Struct, frozen=True):
    """How a process has ended; code and signal are None where nobody could know them."""

    exit_code: int | None
    signal: int | None

    @property
    def text(self) -> str:
        """The exit in words."""
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return "ended, and how is not known: an earlier service had started it"


class WorkerProcess:
    """A running worker process. `exited` ends with how it did. It is for waiting (`asyncio.wait`), never to be cancelled.

    Args:
        identity: Of the process; it must be alive.
        child: The Popen when it is our child, None when it was adopted.
    """

    def __init__(self, process_identity: ProcessIdentity, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.identity = process_identity
        self._pidfd = pidfd
        self._child = child
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        """Its number, which may be another process's once it has `exited`."""
        return self.identity.pid

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        ended = _reap(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._child is not None:
            self._child.returncode = 0  # Popen need not look for it: it is reaped
        self.exited.set_result(ended)

    def cpu_s(self) -> float:
        """CPU seconds that the process has used; 0 when it has just ended."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold anything
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process, if it is still there."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass  # it has just ended; _on_exit is on its way

    def let_go(self) -> None:
        """Stop watching: a handover leaves the process running."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            # Popen's destructor would warn; the next service holds it by its pidfd.
            self._child.returncode = 0


def _reap(pidfd: int) -> Exit:
    """Return how a process that has ended did so; one that is not our child does not tell."""
    try:
        # A worker that was adopted after `mooring restart` is our child still: the program is new, the process is not.
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        status = None
    if status is None:
        return Exit(None, None)
    return Exit(status.si_status, None) if status.si_code == os.CLD_EXITED else Exit(None, status.si_status)


@contextlib.contextmanager
def in_memory(settings: WorkerSettings) -> Iterator[int]:
    """The descriptor of a file without a name that holds `settings`: whoever reads it needs nobody who writes it.

    (A pipe holds 64 KiB, and what is longer would keep the event loop waiting for the child's interpreter.)
    """
    try:
        descriptor = os.memfd_create("mooring-settings", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        descriptor = os.memfd_create("mooring-settings")  # a kernel before 6.3 does not know the flag
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(settings))
        file.flush()
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor


@contextlib.contextmanager
def log_of(settings: WorkerSettings) -> Iterator[int]:
    """The descriptor of the log of a worker.

    Raises:
        OSError: If it cannot be opened.
    """
    descriptor = private_files.opener(settings.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def start(settings: WorkerSettings) -> WorkerProcess:
    """Start a worker process by exec. (A fork of the service would hold our lock, port and database.)

    Raises:
        OSError: If it cannot be started.
    """
    with log_of(settings) as log_fd, in_memory(settings) as settings_fd:
        return hold(execution.execute([*PROGRAM, settings.worker], stdin=settings_fd, output=log_fd))


def hold(child: subprocess.Popen[bytes]) -> WorkerProcess:
    """Hold a child of ours that was just executed.

    Raises:
        OSError: If the system has no descriptor for that.
    """
    pidfd = os.pidfd_open(child.pid)
    ticks = identity.started_at_ticks(child.pid)
    return WorkerProcess(ProcessIdentity(child.pid, ticks, identity.boot_id()), pidfd, child)


def adopt(process_identity: ProcessIdentity) -> WorkerProcess | None:
    """Hold a process that an earlier service started; None if it is gone."""
    if process_identity.pid <= 0 or process_identity.boot_id != identity.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(process_identity.pid)
    except ProcessLookupError:
        return None
    try:
        same = identity.started_at_ticks(process_identity.pid) == process_identity.started_at_ticks
    except ProcessLookupError:
        same = False
    if not same:
        os.close(pidfd)
        return None
    return WorkerProcess(process_identity, pidfd, None)  # a zombie too: its end is seen, and reaped, at once


def take_exit_record(path: str) -> ExitRecord | None:
    """Return what a process wrote down about its own end, once; None if it wrote nothing."""
    if not path:
        return None
    try:
        record = msgspec.json.decode(Path(path).read_bytes(), type=ExitRecord)
        Path(path).unlink()
    except (OSError, msgspec.MsgspecError):
        return None
    return record
