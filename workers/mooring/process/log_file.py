"""The worker's log within its bounds: copied aside and truncated, so that whoever prints never learns of it. Leaf.

The worker does this itself, in whatever state it is, and also while the service is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mooring import private_files

CHECK_S = 0.5  # what is printed within this time may stand above the bound

log = logging.getLogger("mooring.worker")


async def keep_within(path: Path, max_bytes: int, kept: int, printing: Sequence[int] = (1, 2)) -> None:
    """Rotate the log whenever it is larger than `max_bytes`; begin a new one when it was moved away. Ends by cancellation.

    Args:
        printing: Descriptors that the log may be open as.
    """
    # Who does not print into it (a worker inside another program) has nothing to be led back.
    printing = [descriptor for descriptor in printing if _is(path, os.fstat(descriptor))]
    held = os.fstat(printing[-1]) if printing else None
    told = ""
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            # In threads: the disk may be slow, and the I/O loop waits for nobody.
            if held is not None and not _is(path, held):
                held = await asyncio.to_thread(reopen, path, printing, held)
                log.info("the log was moved away, or removed: this is a new one")
            elif path.stat().st_size > max_bytes:
                await asyncio.to_thread(rotate, path, max_bytes, kept)
            told = ""
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread can be started just now
            if str(exc) != told:  # it goes into the very log
                told = str(exc)
                log.warning("the log %s cannot be kept within its bounds: %s", path, exc)


def _is(path: Path, held: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), held)
    except FileNotFoundError:
        return False


def reopen(path: Path, printing: Sequence[int], held: os.stat_result) -> os.stat_result:
    """Have those of `printing` that still go to the file `held` go to a new one at `path`; return which it is.

    Raises:
        OSError: If `path` cannot be opened.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = private_files.opener(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
    try:
        for descriptor in printing:
            # What user code has turned elsewhere stays there.
            if os.path.samestat(os.fstat(descriptor), held):
                os.dup2(new, descriptor)
        return os.fstat(new)
    finally:
        os.close(new)


def rotate(path: Path, max_bytes: int, kept: int) -> None:
    """Keep the last `max_bytes` of the log as ``.log.1``, and up to `kept` such files; begin anew.

    Raises:
        OSError: If the files cannot be written.
    """
    for index in range(kept - 1, 0, -1):
        older = path.with_suffix(f".log.{index}")
        if older.exists():
            older.replace(path.with_suffix(f".log.{index + 1}"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    newest = private_files.opener(str(path.with_suffix(".log.1")), flags)
    with os.fdopen(newest, "wb") as target, path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        # A flood between two looks may be of any size, and goes on meanwhile; of it, too, only so much is kept.
        offset = max(0, size - max_bytes)
        while offset < size and (sent := os.sendfile(target.fileno(), source.fileno(), offset, size - offset)):
            offset += sent
    os.truncate(path, 0)
