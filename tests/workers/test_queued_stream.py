"""A stream that makes nobody wait: what is written is there in order, or its absence is told."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring import queued_stream
from mooring.queued_stream import QueuedStream
from tests.conftest import rounds
from tests.pipes import Pipe


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_whoever_writes_never_waits_and_what_is_missing_is_told_in_its_place(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writing)
    for number in range(30_000):  # a write that waits would wait for ever
        stream.write(f"line {number}\n")
    assert stream.dropped > 15_000
    assert not stream.finish(0.05)
    found = pipe.read_until(lambda data: b"dropped" in data)
    stream.write("after\n")
    found += pipe.read_until(lambda data: b"after" in data)
    passed = 30_000 - stream.dropped
    assert found[:-2] == [f"line {number}" for number in range(passed)]
    assert found[-2:] == [f"{stream.dropped} lines were dropped: nobody has read them in time", "after"]
    assert stream.finish(60)


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
    monkeypatch.setattr(queued_stream, "MAX_LINES", 50)
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
            runner.run(asyncio.wait_for(writing, 60))
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
            assert stream.finish(60)
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


def test_what_an_earlier_program_has_left_is_told_first(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writing)
    stream.begin_with(3)
    stream.write("first\n")
    found = pipe.read_until(lambda data: b"first" in data)
    assert found == ["", "3 lines were dropped: nobody has read them in time", "first"]
    assert stream.dropped == 3 and stream.finish(60) and stream.unwritten == 0


def test_what_is_left_is_counted_by_whole_lines(pipe: Pipe) -> None:
    pipe.fill()
    stream = QueuedStream(pipe.writing)
    for _ in range(10):
        stream.write("x" * 999 + "\n")
    assert not stream.finish(0.05) and stream.unwritten == 10
    os.read(pipe.reading, 4096)  # room for four of them, and a part of the next
    deadline = time.monotonic() + 60
    while stream.unwritten > 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert stream.unwritten == 6
    pipe.read_until(lambda data: data.count(b"\n") == 10)
    assert stream.finish(60) and stream.unwritten == 0


def test_the_child_of_a_fork_writes_by_itself(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writing)
    stream.write("parent\n")
    assert stream.finish(60)
    child = os.fork()
    if not child:
        stream.write("child\n")
        os._exit(0 if stream.finish(60) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pipe.read_until(lambda data: b"child" in data) == ["parent", "child"]
