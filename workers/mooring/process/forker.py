"""``python -m mooring.process.forker``: a process that workers are copies of: it has imported all that they need.

The service starts it and speaks to it over a socket on its standard input (``SOCK_SEQPACKET``). It says `READY` once; each request is
the name of a worker, with the descriptors of the log and of a gate; the answer is `FORKED` and the pid, with a pidfd, or `STALE`,
or `FAILED` and why. A copy waits at its gate for the descriptor of its settings, so that no worker lives whom the service does not
know, and nothing of the settings is ever in this process. It is a child of who is the parent of this process, if that
buries orphans (``PR_SET_CHILD_SUBREAPER``): what has become of it is told to the service, not to us.

It has one thread, and holds nothing of the service: no lock, port, database or secret. At the end of the socket it ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

# What a worker imports only once it runs: all of it is shared here.
import asyncio.constants  # noqa: F401  # isort: skip
import encodings.idna  # noqa: F401  # isort: skip
import multiprocessing  # noqa: F401  # isort: skip

from mooring.process import program

READY = b"ready"
FORKED = b"forked "
STALE = b"stale"
FAILED = b"failed "
MAX_MESSAGE_BYTES = 4_096


class Copy(NamedTuple):
    """What a process is given that was forked to be a worker."""

    name: str
    log: int
    gate: socket.socket


def serve(control: socket.socket) -> Copy | None:
    """Fork as asked. Returns None at the end of the socket, and in each copy what it was given."""
    files = list(_files())  # this process imports nothing more; to look for them costs as much as to look at them
    before = _code(files)
    control.sendmsg([READY])
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
        if not message:
            return None
        log, gate = descriptors
        if _code(files) != before:
            # A copy of us would mix code of two versions. Who is asked next has been started anew.
            control.sendmsg([STALE])
            return None
        failure = ""
        try:
            pid = _fork_twice()
        except OSError as exc:
            failure = str(exc)
        else:
            if pid == 0:
                return Copy(message.decode(), log, socket.socket(fileno=gate))
        # Before the answer: whoever has it finds nothing of the worker here.
        os.close(log)
        os.close(gate)
        if failure:
            control.sendmsg([FAILED + failure.encode()])
            continue
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [FORKED + str(pid).encode()], [pidfd])
        os.close(pidfd)


def _fork_twice() -> int:
    """Fork a process that is no child of ours; return its pid, and 0 in it.

    Raises:
        OSError: If there can be none.
    """
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(reading)
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)  # it has written nothing, which says so
        if pid == 0:
            os.close(writing)
            return 0
        os.write(writing, str(pid).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        pid_of_copy = file.read()
    # Only now: whoever hears of the pid finds the process where it belongs, with its new parent.
    os.waitpid(between, 0)
    if not pid_of_copy:
        raise OSError("the system has no room for another process")
    return int(pid_of_copy)


def _code(files: list[str]) -> list[tuple[str, int, int]]:
    """Return what tells whether the code that we have imported is still that of the files: all of ours, and the first file of
    every package that is not (an installer writes all of them anew)."""
    return [(path, status.st_mtime_ns, status.st_ino) for path in files if (status := _stat(path)) is not None]


def _files() -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and (name.startswith("mooring.") or "." not in name):
            yield path


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _be_worker(copy: Copy) -> None:
    """Go on as the worker that is wanted, once the service says so."""
    os.setsid()  # Ctrl-C is for the service, which then ends its workers in order
    for standard in (1, 2):
        os.dup2(copy.log, standard)
    os.close(copy.log)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    sys.argv[1:] = [copy.name]
    _set_title(["-P", "-m", "mooring", copy.name])
    message, descriptors, _, _ = socket.recv_fds(copy.gate, 1, 1)
    copy.gate.close()
    if not message:
        os._exit(program.EXIT_SETTINGS)  # the service has given up on us, or is gone: nobody knows of us
    with open(descriptors[0], "rb") as file:
        settings = file.read()
    program.run(settings)


def _set_title(arguments: list[str]) -> None:
    """Have the process list show the command line of a worker (proc(5), ``arg_start``)."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    title = b"".join(os.fsencode(word) + b"\0" for word in [sys.executable, *arguments])
    if end - start > len(title):
        ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Fork until the socket ends."""
    # Ours are the signals of nobody: the service ends us by closing the socket, and a hang-up is for the service alone.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(
        signal.SIG_SETMASK, ()
    )  # executed before the service has let pass what was blocked when it was started
    with socket.socket(fileno=os.dup(0)) as control:
        program.leave_standard_input()
        gc.collect()
        gc.freeze()  # a collection in a copy would touch, and so copy, every page
        try:
            copy = serve(control)
        except (BrokenPipeError, ConnectionResetError):
            return  # the service has gone while we answered
    if copy is not None:
        _be_worker(copy)


if __name__ == "__main__":
    main()
