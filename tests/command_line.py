"""The command line in a process of its own, as people and scripts run it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import NamedTuple

from tests.conftest import RunningService


class Ran(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    errors: str


def command(service: RunningService, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mooring_api", "--state-dir", str(service.state_dir), *arguments]


async def mooring(
    service: RunningService, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None
) -> Ran:
    return await _run(command(service, *arguments), stdin, env)


async def run(*arguments: str, env: dict[str, str] | None = None) -> Ran:
    """The same without a service."""
    return await _run([sys.executable, "-m", "mooring_api", *arguments], None, env)


async def _run(arguments: list[str], stdin: bytes | None, env: dict[str, str] | None) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "100", **(env or {})},
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(stdin), 110)
    return Ran(process.returncode or 0, out.decode(), errors.decode())
