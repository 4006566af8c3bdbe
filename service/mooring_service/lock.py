"""One service per state directory: a lock that the kernel holds, on a file that is never unlinked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class StateDirectoryBusy(Exception):
    """Another service holds the state directory."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder

    def __str__(self) -> str:
        who = f"process {self.holder}" if self.holder else "another process"
        return f"the state directory {self.path} is in use by {who}"


class StateLock:
    """The lock of one state directory, held from `acquire` to `release` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises:
            StateDirectoryBusy: If another process has it; the error names the holder.
            OSError: If the lock file cannot be made.
        """
        path = self._state_dir / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise StateDirectoryBusy(self._state_dir, holder) from None
        self._fd = fd

    def release(self) -> None:
        """Give the lock up."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def holder_of(state_dir: Path) -> int | None:
    """Return the pid of the service that runs on `state_dir`, as the kernel knows it; None if there is none."""
    try:
        fd = os.open(state_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(_holder(fd) or 0) or None
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    """Return the pid of the process that holds the lock on `fd`, as the kernel knows it (proc(5)); "" if it does not say."""
    inode = str(os.fstat(fd).st_ino)
    try:
        with open("/proc/locks") as file:
            for line in file:
                fields = line.split()  # 1: FLOCK ADVISORY WRITE 1234 00:2f:5678 0 EOF
                if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rsplit(":", 1)[-1] == inode:
                    return fields[4]
    except OSError:
        pass
    return ""
