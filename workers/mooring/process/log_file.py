"""The worker's log within its bounds: copied aside and truncated, so that whoever prints never learns of it. Leaf.

The worker does this itself, in whatever state it is, and also while the service is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

CHECK_S = 0.5  # what is printed within this time may stand above the bound

log = logging.getLogger("mooring.worker")


async def keep_within(path: Path, max_bytes: int, kept: int) -> None:
    """Rotate the log whenever it is larger than `max_bytes`. Ends by cancellation."""
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            if path.stat().st_size > max_bytes:
                # In a thread: the disk may be slow, and the I/O loop waits for nobody.
                await asyncio.to_thread(rotate, path, max_bytes, kept)
        except OSError as exc:
            log.warning("the log %s cannot be rotated: %s", path, exc)


def rotate(path: Path, max_bytes: int, kept: int) -> None:
    """Keep the last `max_bytes` of the log as ``.log.1``, and up to `kept` such files; begin anew.

    Raises:
        OSError: If the files cannot be written.
    """
    for index in range(kept - 1, 0, -1):
        older = path.with_suffix(f".log.{index}")
        if older.exists():
            older.replace(path.with_suffix(f".log.{index + 1}"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with path.open("rb") as source, os.fdopen(os.open(path.with_suffix(".log.1"), flags, 0o600), "wb") as target:
        size = os.fstat(source.fileno()).st_size
        # A flood between two looks may be of any size, and goes on meanwhile; of it, too, only so much is kept.
        offset = max(0, size - max_bytes)
        while offset < size and (sent := os.sendfile(target.fileno(), source.fileno(), offset, size - offset)):
            offset += sent
    os.truncate(path, 0)
