"""The state directory: ours alone; and the small files in it by which other programs find the service, or learn what became of it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from mooring import private_files
from mooring_service.config import ConfigError


def replace_text(path: Path, text: str) -> None:
    """Give `path` a new text: whoever reads it meanwhile finds all of the old one or all of the new one."""
    private_files.replace(path, text.encode(), synced=False)


def owner_of(path: Path) -> int | None:
    """Return the user id that a state directory belongs to; None if it is not there, or cannot be seen."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def user_name(uid: int) -> str:
    """Return what a user is called."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"of id {uid}"


def check_state_dir(path: Path, owner: int) -> None:
    """Check that a service of the user id `owner` may use, or make, a state directory; nothing is made.

    Raises:
        ConfigError: If it may not.
    """
    try:
        status = path.stat()
        if status.st_uid != owner:
            # Not for root either: what root makes in it, its owner's service could not open.
            raise ConfigError(
                f"the state directory {path} belongs to the user {user_name(status.st_uid)}: do this as that user, "
                "or name another with --state-dir"
            )
        folder = path
    except FileNotFoundError:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as exc:
        raise ConfigError(f"the state directory {path} cannot be used: {exc.strerror}") from None
    if not folder.is_dir():
        raise ConfigError(f"the state directory {path} cannot be used: {folder} is no directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"the state directory {path} cannot be used: {folder} cannot be written")


def prepare_state_dir(path: Path) -> None:
    """Make the state directory, or check that it is ours alone.

    Raises:
        ConfigError: If others could write in it, or it cannot be made.
    """
    check_state_dir(path, os.getuid())
    try:
        for folder in (*reversed(path.parents), path):
            folder.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would leave those to the umask
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as exc:
        raise ConfigError(f"the state directory {path} cannot be used: {exc.strerror}") from None
