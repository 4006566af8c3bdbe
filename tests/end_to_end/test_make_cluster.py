"""`make cluster`: what it prints is what happens, and all of it ends together."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster_kit.fixtures import needs_servers
from tests.command_line import run
from tests.conftest import ROOT, wait_for
from tests.proxies import free_ports

READY_S = 90.0
END_S = 60.0
OPENED_S = 90.0  # `dead_after` is 15

pytestmark = [needs_servers, pytest.mark.cluster, pytest.mark.timeout(300)]


class Shown:
    """The program, and the commands that it has printed."""

    def __init__(self, program: asyncio.subprocess.Process, words: list[str]) -> None:
        self.program = program
        self.folder = Path(words[0].partition("state and logs in ")[2].partition(";")[0])
        self.commands = [shlex.split(line.partition("  #")[0]) for line in words[1:]]
        assert self.commands[4][:2] == ["kill", "-9"]
        self.killed = int(self.commands[4][2])


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    folder = tempfile.mkdtemp(prefix="mooring-")  # pytest's own are too long for the path of a socket
    command = [sys.executable, str(ROOT / "tools" / "cluster"), "--ports", *map(str, sorted(free_ports(4)))]
    program = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": folder}
    )
    assert program.stdout is not None

    async def said() -> list[str]:
        assert b"made" in await program.stdout.readline()
        return [(await program.stdout.readline()).decode().strip() for _ in range(8)]

    try:
        yield Shown(program, await asyncio.wait_for(said(), READY_S))
    finally:
        if program.returncode is None:
            program.send_signal(signal.SIGINT)
        await asyncio.wait_for(program.wait(), END_S)
        shutil.rmtree(folder, ignore_errors=True)


async def mooring(*words: str) -> str:
    ran = await run(*words)
    assert ran.code == 0, ran.errors
    return ran.out


async def test_make_cluster_shows_what_it_says_and_ends_all_of_it_together(shown: Shown) -> None:
    folder = shown.folder
    assert folder.parent.parent == Path(tempfile.gettempdir())
    opened = await mooring(*shown.commands[0][1:])
    assert "Connected" in opened
    assert "sent 1 message" in await mooring(*shown.commands[1][1:])
    assert "onMessage hello" in await mooring(*shown.commands[2][1:], "--limit", "2")
    status = await mooring(*shown.commands[3][1:])
    assert "cluster demo, node c" in status
    assert [line.split()[1] for line in status.splitlines()[-3:]].count("Live") >= 2
    os.kill(shown.killed, signal.SIGKILL)
    assert shown.program.stdout is not None
    assert b"node a has ended" in await asyncio.wait_for(shown.program.stdout.readline(), 60)
    assert "cluster demo, node c" in await mooring(*shown.commands[3][1:]), "the others go on"

    async def another_has_opened_it() -> bool:
        await asyncio.sleep(1)  # each look is a process
        record = json.loads(await mooring("--state-dir", f"{folder}/c", "show", "mine", "--json"))
        return record["node"] in ("b", "c") and record["status"] == "Connected"

    await wait_for(another_has_opened_it, OPENED_S)
    shown.program.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(shown.program.wait(), END_S) == 0
    assert not folder.exists()
