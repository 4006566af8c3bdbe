"""Who a process is: boot id, pid and start time. A pid alone is reused; the three together are not.

Linux only: this is the one place that reads ``/proc`` for identity. Elsewhere it raises with a clear sentence.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from pathlib import Path

_PROC = Path("/proc")

# What was freed is given back to the kernel from so much on, and blocks larger than that are no part of the heap. By itself glibc gives back at each
# large message, and the kernel clears all of its pages anew: half of a worker's kernel time for messages of a mebibyte.
TRIM_BYTES = 8 * 1024 * 1024
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The collector looks at so many new objects at a stretch: some 4 ms, in which nothing else runs (20,000 of a service were 10 ms). It looks at those
# that it has seen only once for each 400,000 new ones.
_YOUNG, _LOOKS = 10_000, 40


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError as exc:
        raise OSError("mooring needs Linux's /proc to tell processes apart") from exc


def started_at_ticks(pid: int) -> int:
    """Return the start time of `pid` in clock ticks since boot.

    Raises:
        ProcessLookupError: If there is no such process.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    # The name, in parentheses, may hold anything: the fields begin after its last one.
    return int(stat.rpartition(")")[2].split()[19])


def rss_bytes() -> int:
    """Return this process's resident memory."""
    pages = int((_PROC / "self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s() -> float:
    """Return this process's CPU seconds, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def settle_memory() -> None:
    """Have the cyclic collector leave alone what was made at the start, and look less often at thousands of connections; and keep some memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc; musl has none
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(_M_MMAP_THRESHOLD, TRIM_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _LOOKS, 50)
