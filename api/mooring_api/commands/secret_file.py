"""The file of a hook's secret, as a command is given it; what stands in it is quoted nowhere."""

from __future__ import annotations

from pathlib import Path

from mooring_api.commands.target import Failure
from mooring_service.hook_options import secret_faults


def secret_in(path: Path) -> str:
    """Return the secret of a file: its first word.

    Raises:
        Failure: If it holds none.
    """
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError) as exc:
        raise Failure(f"{path}: {getattr(exc, 'strerror', None) or 'is not text'}") from None
    for fault in secret_faults(words[0]) if words else ["is empty"]:
        raise Failure(f"{path}: {fault}")
    return words[0]
