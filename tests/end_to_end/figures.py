"""Figures of time that a busy machine does not change: the time in which one of those who are judged had no processor does not count."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from tests.conftest import RunningService


class Watch:
    """Measures from now on, for a service and this process, and for the worker that has had to wait longest.

    Args:
        service: It runs already, or is started meanwhile.
        workers: Pids of those that have to do with it.
    """

    def __init__(self, service: RunningService, workers: Iterable[int] = ()) -> None:
        self._service = service
        self._workers = {pid: waited_s(pid) for pid in workers}
        self._own_s = waited_s(os.getpid())
        self._pid = 0 if service.process is None or service.process.poll() is not None else service.process.pid
        self._its_s = waited_s(self._pid)
        self._began = time.monotonic()

    def took_s(self) -> float:
        """Return the seconds since it was made, but for those in which somebody waited for a processor."""
        took = time.monotonic() - self._began
        pid = self._service.process.pid
        waited = waited_s(os.getpid()) - self._own_s + waited_s(pid) - (self._its_s if pid == self._pid else 0.0)
        waited += max((waited_s(worker) - before for worker, before in self._workers.items()), default=0.0)
        print(f"{took:.2f} s, {waited:.2f} s of them without a processor")
        return took - waited


def waited_s(pid: int) -> float:
    """Return how long the main thread of a process was ready to run and did not (0 where the kernel does not say)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def all_waited_s(pid: int) -> float:
    """Likewise, of all of its threads together: one that holds the interpreter's lock keeps the others waiting."""
    found = 0.0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, IndexError):
                found += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[1]) / 1e9
    return found
