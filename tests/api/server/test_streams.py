"""What is printed and logged never makes the service wait, whoever reads it or does not."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import RunningService, wait_for
from tests.pipes import Pipe

LONG = f"/nothing/{'x' * 6_000}"
"""A path that makes a long line of the access log: 4 MiB of them are quickly there."""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


class Unread:
    """A service whose output and errors go where the test says."""

    def __init__(self, folder: Path, stdout: Any, stderr: Any, **env: str) -> None:
        self.state_dir = folder / "state"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mooring_api", "serve", "--state-dir", str(self.state_dir), "--listen", "127.0.0.1:0"],
            stdout=stdout, stderr=stderr, env={**os.environ, "MOORING_API_ACCESS_LOG": "true", **env},
        )  # fmt: skip

    async def open_client(self) -> aiohttp.ClientSession:
        await wait_for((self.state_dir / "address").exists)
        return aiohttp.ClientSession(
            (self.state_dir / "address").read_text().strip(),
            headers={"Authorization": f"Bearer {(self.state_dir / 'token').read_text().strip()}"},
            timeout=aiohttp.ClientTimeout(60),
        )

    async def end(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 60)


@pytest.fixture
async def start_unread(tmp_path: Path) -> AsyncIterator[Callable[..., Unread]]:
    started: list[Unread] = []

    def start(stdout: Any, stderr: Any, **env: str) -> Unread:
        started.append(Unread(tmp_path, stdout, stderr, **env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        service = RunningService(one.state_dir)
        await service.clean_up()


async def _ask(client: aiohttp.ClientSession, count: int) -> None:
    for _ in range(count):
        async with client.get(LONG) as response:
            assert response.status == 404


async def _dropped(client: aiohttp.ClientSession) -> int:
    async with client.get("/metrics") as response:
        (line,) = (
            line for line in (await response.text()).splitlines() if line.startswith("mooring_log_lines_dropped_total")
        )
        return int(float(line.split()[1]))


async def test_a_log_that_nobody_reads_stops_nothing_and_its_gap_is_counted_and_told(
    pipe: Pipe, start_unread: Callable[..., Unread]
) -> None:
    service = start_unread(subprocess.DEVNULL, pipe.writing)
    async with await service.open_client() as client:
        assert await _dropped(client) == 0
        await _ask(client, 1_000)
        dropped = await _dropped(client)
        assert dropped > 100
        found = await asyncio.to_thread(pipe.read_until, lambda data: b'"dropped"' in data and data.endswith(b"\n"))
        lines = [json.loads(line) for line in found]
        (notice,) = (line for line in lines if "dropped" in line)
        assert notice["dropped"] >= dropped
        assert notice["event"] == f"{notice['dropped']} lines were dropped: nobody has read the log in time"
        asked = sum(line["logger"] == "mooring.access" for line in lines)
        assert asked + notice["dropped"] in (1_002, 1_001), "every other line is there"
        await _ask(client, 1_000)  # full again: it must end all the same
    assert await service.end() == 0


async def test_an_output_that_is_full_and_stays_open_keeps_no_service_from_starting_and_ending(
    pipe: Pipe, start_unread: Callable[..., Unread]
) -> None:
    pipe.fill()
    service = start_unread(pipe.writing, subprocess.DEVNULL)
    async with await service.open_client() as client:
        async with client.get("/healthz") as response:
            assert response.status == 200
    assert await service.end() == 0


async def test_a_terminal_that_is_stopped_stops_no_service(start_unread: Callable[..., Unread]) -> None:
    ours, theirs = pty.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)  # what Ctrl-S does
        service = start_unread(theirs, theirs)
        async with await service.open_client() as client:
            await _ask(client, 50)
        assert await service.end() == 0
    finally:
        os.close(theirs)
        os.close(ours)


async def test_what_stands_in_the_way_of_a_start_ends_it_although_nobody_reads_it(
    pipe: Pipe, start_unread: Callable[..., Unread]
) -> None:
    pipe.fill()
    service = start_unread(subprocess.DEVNULL, pipe.writing, MOORING_LOG_LEVEL="no-such-level")
    assert await asyncio.to_thread(service.process.wait, 60) == 1


async def test_the_last_lines_of_a_process_are_written_before_it_ends(
    pipe: Pipe, start_unread: Callable[..., Unread]
) -> None:
    service = start_unread(subprocess.DEVNULL, pipe.writing)
    reading = asyncio.create_task(
        asyncio.to_thread(pipe.read_until, lambda data: data.count(b"/nothing/") == 300, lambda: 0.0005)
    )
    async with await service.open_client() as client:
        await _ask(client, 300)
    assert await service.end() == 0
    assert sum("/nothing/" in line for line in await asyncio.wait_for(reading, 60)) == 300


async def test_a_restart_tells_how_many_lines_it_has_left_behind(
    pipe: Pipe, start_unread: Callable[..., Unread]
) -> None:
    service = start_unread(subprocess.DEVNULL, pipe.writing)
    async with await service.open_client() as client:
        await _ask(client, 300)
        service.process.send_signal(signal.SIGUSR2)

        polls = 0

        async def told() -> int:
            nonlocal polls
            polls += 1
            try:
                return await _dropped(client)
            except aiohttp.ClientError:  # between two programs
                return 0

        lost = await wait_for(told)
        found = await asyncio.to_thread(pipe.read_until, lambda data: b'"dropped"' in data and data.endswith(b"\n"))
        lines = [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")]
    (notice,) = (line for line in lines if "dropped" in line)
    assert notice["dropped"] == lost
    asked = sum(line["logger"] == "mooring.access" and "nothing" in line["event"] for line in lines)
    assert 300 <= asked + lost <= 305 + polls, "each of ours, and what it says itself"
