"""logs: a worker's log file, made readable on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import click
import msgspec

from mooring_api.commands.tables import console, plain
from mooring_api.commands.target import Failure, Target, as_json, nearest

FOLLOW_S = 0.25
LEVEL_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


class LogLine(msgspec.Struct, kw_only=True):
    """One line of those that `logging` wrote. Lines that the worker's code printed are anything else."""

    event: str
    level: str
    logger: str
    worker: str
    incarnation: str
    timestamp: str
    connection: int | None = None
    exception: str | None = None


_line = msgspec.json.Decoder(LogLine)


def readable(text: str) -> str:
    """Return a line of the log as people read it.

    What a peer has sent may be in it, printed or logged: it must not drive the terminal.
    """
    try:
        line = _line.decode(text)
    except msgspec.MsgspecError:
        return plain(text.expandtabs())
    tags = f"incarnation={line.incarnation}"
    if line.connection is not None:
        tags += f" connection={line.connection}"
    level = click.style(f"{plain(line.level):<8}", fg=LEVEL_COLOURS.get(line.level))
    rows = [
        f"{plain(line.timestamp)} {level} {plain(line.logger)}: {plain(line.event)} {click.style(plain(tags), dim=True)}"
    ]
    if line.exception is not None:
        rows += [plain(row.expandtabs()) for row in line.exception.splitlines()]
    return "\n".join(rows)


def as_object(worker: str, text: str) -> str:
    """Return a line of the log as one JSON object; what the worker's code printed is its `event`."""
    try:
        _line.decode(text)
    except msgspec.MsgspecError:
        return msgspec.json.encode({"event": text, "worker": worker}).decode()
    return text


def _whole_lines(file: BinaryIO, kept: bytes) -> tuple[list[str], bytes]:
    # The last line may still be being written.
    *lines, kept = (kept + file.read()).split(b"\n")
    return [line.decode("utf-8", "replace") for line in lines], kept


@click.command()
@click.argument("worker")
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="So many last lines first.")
@as_json
@click.pass_obj
def logs(target: Target, worker: str, follow: bool, lines: int, as_json: bool) -> None:
    """What its code printed and logged; it is read in the state directory.

    Log lines are JSON in the file and in a pipe, text on a terminal; with --json what was printed is JSON, too.

    \b
    Example:  mooring logs quotes --follow
    """
    folder = target.state_dir / "logs"
    path = folder / f"{worker}.log"
    if "/" in worker or not path.is_file():
        known = [found.stem for found in folder.glob("*.log")]
        raise Failure(f"no log of a worker {worker!r} in {folder}{nearest(worker, known)}")
    screen = console()
    shown: Callable[[str], str] = str
    if as_json:
        shown = partial(as_object, worker)
    elif screen.is_terminal:
        shown = readable
    # Left to itself, click takes escape sequences out of what goes to a pipe: there a line stays as it is.
    echo = partial(click.echo, color=not (screen.is_terminal and screen.no_color))
    try:
        with path.open("rb") as file:
            found, rest = _whole_lines(file, b"")
            if rest and not follow:
                found.append(rest.decode("utf-8", "replace"))
            for text in found[-lines:] if lines else ():
                echo(shown(text))
            while follow:
                if path.stat().st_size < file.tell():  # rotated: it was truncated
                    file.seek(0)
                    rest = b""
                found, rest = _whole_lines(file, rest)
                for text in found:
                    echo(shown(text))
                if not found:
                    time.sleep(FOLLOW_S)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
