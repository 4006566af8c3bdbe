"""Files that nobody but their owner may read, whatever the umask. Leaf.

All that lies in the state directory is made with this: what servers sent, and what the service knows of itself.
"""

from __future__ import annotations

import os
from pathlib import Path


def opener(path: str, flags: int) -> int:
    """Open a file for ``open(path, mode, opener=opener)``; one that is there already is made private as well."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_text(path: Path, text: str) -> None:
    """Write a small file."""
    with open(path, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)


def make(path: Path) -> None:
    """Make an empty file, if there is none, for a library that opens it by its path: it keeps the mode.

    (SQLite also gives the mode of a database to what it keeps beside it.)

    Raises:
        OSError: If it cannot be made, or does not belong to us.
    """
    os.close(opener(str(path), os.O_WRONLY | os.O_CREAT))
