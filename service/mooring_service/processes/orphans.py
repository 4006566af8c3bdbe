"""Orphans: processes that our workers have left, and workers that were forked for us. We are their parent, and bury them.

Linux only (prctl(2), ``PR_SET_CHILD_SUBREAPER``).
"""

from __future__ import annotations

import asyncio
import ctypes
import os

LOOK_S = 5.0
AGAIN_S = 0.2
_PR_SET_CHILD_SUBREAPER = 36


def adopt_all() -> None:
    """Be the parent of every orphan among the processes that descend from this one.

    Raises:
        OSError: If this kernel does not let us.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot become the parent of orphans")


async def bury() -> None:
    """Bury, again and again, children of this process that have ended and that nobody waits for. Ends by cancellation.

    What a worker has started and left is nobody's else. Whoever waits for a child of ours does it on this loop, and has had time to
    take its exit status when we see it for the second time.
    """
    seen = 0
    while True:
        await asyncio.sleep(AGAIN_S if seen else LOOK_S)
        while (pid := _ended_child()) == seen != 0:
            _reap(pid)
        seen = pid


def _ended_child() -> int:
    """Return the pid of a child that has ended; 0 if there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if ended is None else ended.si_pid


def _reap(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass  # whoever waits for it was only slow
