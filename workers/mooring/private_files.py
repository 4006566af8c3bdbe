"""Files that nobody but their owner may read, whatever the umask. Leaf.

All that lies in the state directory is made with this: what servers sent, and what the service knows of itself.
"""

from __future__ import annotations

import errno
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


def replace(path: Path, data: bytes, *, synced: bool) -> None:
    """Give `path` other bytes: whoever reads it meanwhile finds all of the old ones or all of the new ones.

    Args:
        synced: They are on the disk when this returns.
    """
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb", opener=opener) as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
    if synced:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk: that of a file which was made or renamed does not with its bytes.

    Where that cannot be asked for (a folder that we may write and not read, some network file systems) it is passed over.

    Raises:
        OSError: If the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
