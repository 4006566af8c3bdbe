"""What a process that user code forks (`multiprocessing`, ``os.fork``) does not keep of its worker.

It is a copy of the worker with one thread: no I/O loop runs in it. So it gets the signals of any program, its copies of the
sockets are closed (or a server would not see the end of TCP before the last copy is), and no worker is to be found in it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from mooring.connection.state import ConnectionState
from mooring.usercode import current

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # those that a worker handles


class Holds(Protocol):
    """What is asked of a connection."""

    state: ConnectionState

    def fileno(self) -> int:
        """Return the descriptor of its socket; -1: it has none."""


class Forks:
    """The hooks round each fork. `begin` them once in a process: nothing takes them back.

    Args:
        loop: The I/O loop.
        connections: Returns those that the worker holds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Callable[[], Iterable[Holds]]) -> None:
        self._loop = loop
        self._connections = connections
        self._masks = threading.local()  # threads may fork at once
        self._is_copy = False

    def begin(self) -> None:
        """Have every process that is forked from now on begin so."""
        os.register_at_fork(before=self._before, after_in_parent=self._unmask, after_in_child=self._in_child)

    def _before(self) -> None:
        # Whoever starts a helper may end it at once: a signal waits until it means in the child what it should.
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def _unmask(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_child(self) -> None:
        if self._is_copy:  # what a helper forks is as the helper has made itself
            self._unmask()
            return
        self._is_copy = True
        try:
            self._let_go()
        finally:
            self._unmask()
            # Last: an exception inside a hook of a fork is lost, and a Ctrl-C that has waited has ended this process by now.
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _let_go(self) -> None:
        wakeup = signal.set_wakeup_fd(-1)
        faulthandler.unregister(signal.SIGUSR1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        current.set_runtime(None)
        connections = list(self._connections())
        held = {wakeup, *_watched(self._loop), *(connection.fileno() for connection in connections)}
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in held - {-1}:
            # Not closed: the loop's own code may still write to these numbers, and into whatever got them next.
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        for connection in connections:
            connection.state = ConnectionState.CLOSED  # in this process: so says the face that user code has of it


def _watched(loop: Any) -> Iterator[int]:
    """Yield what the loop polls, and that by which it does (proc(5), fdinfo): dials, the link, what wakes it up."""
    backend = loop._get_backend_id()
    yield backend
    with open(f"/proc/self/fdinfo/{backend}") as file:
        for line in file:
            if line.startswith("tfd:"):
                yield int(line.split()[1])


def end_helpers() -> None:
    """Tell the helpers that `multiprocessing` knows to end (SIGTERM): those of a pool would wait for ever."""
    module = sys.modules.get("multiprocessing")
    for helper in [] if module is None else module.active_children():
        helper.terminate()
