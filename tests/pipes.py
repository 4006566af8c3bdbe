"""A pipe that is read when the test says so: what a log is to whoever writes it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from typing import TextIO

import pytest


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
