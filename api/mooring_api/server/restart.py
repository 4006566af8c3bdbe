"""Before a restart: can the program of today use the configuration of today? The one that runs asks, and goes on if not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from mooring.deadline import within
from mooring_api.server.state_file import replace_text

CHECK_TIMEOUT_S = 20.0
DRY_RUN = "--dry-run"
HAS_SOCKET = (
    "_MOORING_HAS_SOCKET"  # for the dry run; an option of its own would be none for a program of another version
)


def refusal_file(state_dir: Path) -> Path:
    """Return the file that says why the last restart was refused: whoever has asked for it by a signal looks there."""
    return state_dir / "restart-refused"


def tell_refused(state_dir: Path, reason: str) -> None:
    """Write down why a restart is refused; on a full disk at least that it is."""
    try:
        replace_text(refusal_file(state_dir), f"{reason}\n")
    except OSError:
        with contextlib.suppress(OSError):
            refusal_file(state_dir).touch(0o600)


async def refusal(*, has_socket: bool = False) -> str | None:
    """Return why the next program would not start; None when it would.

    It is asked itself: it may be of another version than this one, and know other settings.

    Args:
        has_socket: Whether we listen on a socket of the service manager, which it will have whatever its setting says.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            DRY_RUN,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, HAS_SOCKET: "1" if has_socket else ""},
        )
    except OSError as exc:
        return f"the program cannot be started: {exc}"
    try:
        async with within(CHECK_TIMEOUT_S):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"the program did not say within {CHECK_TIMEOUT_S:g} s whether it can start"
    if process.returncode == 0:
        return None
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else f"the program ends with code {process.returncode}"
