"""One service per state directory: a lock that the kernel holds, on a file that is never unlinked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class StateDirectoryBusy(Exception):
    """Another service holds the state directory."""

    def __init__(self, path: Path, holder: int | None) -> None:
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
        return _holder(fd)
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    """Return the pid of the process that holds the lock on `fd`, as the kernel knows it (proc(5)); None if it does not say.

    Its list tells files by inode, and by a device that is not always the one of stat(2) (btrfs, overlays): so whoever is in it
    must also have this very file open.
    """
    ours = os.fstat(fd)
    try:
        with open("/proc/locks") as file:
            lines = [line.split() for line in file]  # 1: FLOCK ADVISORY WRITE 1234 00:2f:5678 0 EOF
    except OSError:
        return None
    for fields in lines:
        if len(fields) < 6 or fields[1] != "FLOCK" or not fields[4].isdecimal():
            continue
        device, _, inode = fields[5].rpartition(":")
        if inode == str(ours.st_ino) and _has_open(int(fields[4]), ours, device):
            return int(fields[4])
    return None


def _has_open(pid: int, ours: os.stat_result, device: str) -> bool:
    try:
        return any(_is(f"/proc/{pid}/fd/{name}", ours) for name in os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:  # of another user, who does not show what is open
        return device == f"{os.major(ours.st_dev):02x}:{os.minor(ours.st_dev):02x}"
    except OSError:
        return False


def _is(path: str, ours: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), ours)
    except OSError:
        return False
