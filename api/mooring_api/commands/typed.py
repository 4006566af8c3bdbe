"""Standard input line by line, and what comes in while somebody types."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

PIECE_BYTES = 64 * 1024


async def lines() -> AsyncIterator[bytes]:
    """Yield the lines of standard input as they come, without their ends.

    The descriptor stays blocking: it is shared with the shell and with everything else on the terminal.
    """
    fd = sys.stdin.fileno()
    begun: list[bytes] = []
    while piece := await _read(fd):
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun).removesuffix(b"\r")
            begun = [other]
    if rest := b"".join(begun):
        yield rest.removesuffix(b"\r")


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:
        return os.read(fd, PIECE_BYTES)  # a file or /dev/null: it never blocks, and cannot be watched
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, PIECE_BYTES)


class Prompt:
    """`> ` at which lines are typed, with what comes in shown above it; nothing where nobody types."""

    MARK = "> "

    def __init__(self) -> None:
        # Whether somebody types here.
        self.on = sys.stdin.isatty() and sys.stdout.isatty()

    def show(self) -> None:
        """Ask for the next line."""
        self._write(self.MARK)

    def above(self, rows: int) -> None:
        """Make room for `rows` rows above the prompt; the line that is being typed is kept below them."""
        # Save the cursor; scroll where there is no room below; insert the rows, and go to the start of the first.
        self._write("\x1b7" + "\n" * rows + f"\x1b[{rows}A\x1b[{rows}L\r")

    def back(self, rows: int) -> None:
        """Return to the prompt from the rows that were printed above it."""
        self._write(f"\x1b8\x1b[{rows}B")

    def clear(self) -> None:
        """Leave no prompt behind."""
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self.on:
            sys.stdout.write(text)
            sys.stdout.flush()
