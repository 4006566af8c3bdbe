"""What is printed and logged never makes the service wait, whoever reads it or does not."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import os
import pty
import random
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import pytest

from mooring_api.server import streams
from mooring_api.server.streams import QueuedStream
from tests.conftest import RunningService, rounds, wait_for

LONG = f"/nothing/{'x' * 6_000}"
"""A path that makes a long line of the access log: 4 MiB of them are quickly there."""


class Pipe:
    """A pipe that holds a page, and is read when the test says so."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.writing: TextIO = os.fdopen(writing, "w")

    def fill(self) -> None:
        os.set_blocking(self.writing.fileno(), False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(self.writing.fileno(), b"x" * 512)
        os.set_blocking(self.writing.fileno(), True)

    def read_until(self, done: Callable[[bytes], bool], pause_s: Callable[[], float] = lambda: 0.0) -> list[str]:
        found = b""
        while not done(found):
            time.sleep(pause_s())
            found += os.read(self.reading, 4096)
        return found.decode().splitlines()

    def close(self) -> None:
        os.close(self.reading)
        self.writing.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_whoever_writes_never_waits_and_what_is_missing_is_told_in_its_place(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writing)
    began = time.monotonic()
    for number in range(30_000):
        stream.write(f"line {number}\n")
    assert time.monotonic() - began < 5, "the machine may be busy; a write that waits would wait for ever"
    assert stream.dropped > 15_000
    assert not stream.finish(0.05)
    found = pipe.read_until(lambda data: b"dropped" in data)
    stream.write("after\n")
    found += pipe.read_until(lambda data: b"after" in data)
    passed = 30_000 - stream.dropped
    assert found[:-2] == [f"line {number}" for number in range(passed)]
    assert found[-2:] == [f"{stream.dropped} lines were dropped: nobody has read them in time", "after"]
    assert stream.finish(5)


def _write_and_end(stream: QueuedStream, chance: random.Random) -> None:
    for at in range(3_000):
        stream.write(f"line {at} {'x' * chance.choice((0, 100, 3_000))}\n")
        if chance.random() < 0.01:
            time.sleep(0.003)
    while not stream.finish(0.01):
        pass
    stream.write("end\n")


@rounds(3, 60, "round_")
def test_whatever_a_reader_does_all_lines_are_there_or_told(
    pipe: Pipe, round_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINES", 50)
    for number in range(round_):
        seed = random.randrange(2**32)
        print(f"seed {seed}, round {number}")
        chance = random.Random(seed)
        stream = QueuedStream(pipe.writing)
        stream.notice = "dropped {}\n".format

        with asyncio.Runner() as runner:
            writing = runner.get_loop().run_in_executor(None, _write_and_end, stream, random.Random(seed + 1))
            found = pipe.read_until(
                lambda data: data.endswith(b"end\n"), functools.partial(chance.choice, (0, 0, 0, 0.002))
            )
            runner.run(asyncio.wait_for(writing, 10))
        at = told = 0
        for line in found[:-1]:
            kind, number_of, *_ = line.split()
            if kind == "dropped":
                at += int(number_of)
                told += int(number_of)
            else:
                assert (kind, int(number_of)) == ("line", at), "in order, and only what was told is missing"
                at += 1
        assert (at, told) == (3_000, stream.dropped)


def test_what_cannot_be_written_is_dropped_and_told_once_it_can_be(tmp_path: Path, pipe: Pipe) -> None:
    failures: list[OSError] = []
    with open("/dev/full", "w") as full:
        stream = QueuedStream(full, failed=failures.append)
        for number in range(5):
            stream.write(f"lost {number}\n")
            assert stream.finish(5)
        os.dup2(pipe.writing.fileno(), full.fileno())  # somebody has made room
        stream.write("found\n")
        assert pipe.read_until(lambda data: b"found" in data) == [
            "5 lines were dropped: nobody has read them in time", "found",
        ]  # fmt: skip
    assert [failure.strerror for failure in failures] == ["No space left on device"], "the first one alone is told"
    assert stream.dropped == 5


def test_a_descriptor_that_somebody_has_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing.fileno(), False)
    stream = QueuedStream(pipe.writing)
    for number in range(2_000):
        stream.write(f"line {number}\n")
    assert len(pipe.read_until(lambda data: data.endswith(b"line 1999\n"))) == 2_000
    assert stream.dropped == 0


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
            timeout=aiohttp.ClientTimeout(10),
        )

    async def end(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 10)


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
    began = time.monotonic()
    assert await service.end() == 0
    assert time.monotonic() - began < 8


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
    assert await asyncio.to_thread(service.process.wait, 10) == 1


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
    assert sum("/nothing/" in line for line in await asyncio.wait_for(reading, 10)) == 300
