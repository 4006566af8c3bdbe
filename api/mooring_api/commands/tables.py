"""Tables that fit the terminal, and text of others that cannot drive it.

rich draws on terminals, and what is wider than a letter a cell; it is imported when that is asked for. What goes into a pipe is text and
blanks, and most commands write nothing else.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:  # takes as long to import as all that a plain command does
    from rich.console import Console
    from rich.table import Table

GAP = 2
FLEXIBLE_MIN = 12
UNBOUNDED = 100_000


class Column(NamedTuple):
    """One column; on a narrow terminal the `expendable` ones are left out, the highest first."""

    name: str
    right: bool = False
    expendable: int = 0  # 0: it stays
    widest: int | None = None  # cells; longer values end in an ellipsis
    flexible: bool = False  # it gets the width that the others leave


class Styled(NamedTuple):
    """A cell in a colour."""

    plain: str
    style: str


Cell = str | Styled


def console() -> Console:
    """Return a console as wide as the terminal; what goes into a pipe is not cut, unless $COLUMNS says so."""
    from rich.console import Console

    said = _columns()
    environ = {**os.environ, "COLUMNS": str(said or "")}  # rich reads it whatever width it is given
    found = Console(highlight=False, markup=False, emoji=False, _environ=environ)
    if not found.is_terminal and said is None:
        return Console(highlight=False, markup=False, emoji=False, _environ=environ, width=UNBOUNDED)
    return found


def _columns() -> int | None:
    """Return what $COLUMNS says; None where it says nothing: some terminals have 0 in it, which rich would take at its word."""
    given = os.environ.get("COLUMNS", "")
    return int(given[:9]) or None if given.isascii() and given.isdigit() else None


def pipe_width() -> int | None:
    """Return how many cells a line may have in a pipe; None: what we write to is, or says that it is, a terminal."""
    if sys.stdout.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"):
        return None
    return _columns() or UNBOUNDED


def screen_width() -> int:
    """Return how many cells a line may have."""
    width = pipe_width()
    return console().width if width is None else width


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table that fits."""
    width = pipe_width()
    if width is None or not all(_text(cell).isascii() for row in rows for cell in row):
        screen = console()
        screen.print(table(columns, rows, screen.width))
        return
    for line in pipe_lines(columns, rows, width):
        click.echo(line)


def pipe_lines(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[str]:
    """Return the lines of a table whose cells are ASCII: what `table` draws, without its colours."""
    shown = _fitted(columns, rows, width)
    lines = [[column.name for column in columns], *([_text(cell) for cell in row] for row in rows)]
    return [(" " * GAP).join(_cut(line[at], size, columns[at].right) for at, size in shown) for line in lines]


def _cut(text: str, size: int, right: bool) -> str:
    text = text if len(text) <= size else text[: size - 1] + "…"
    return text.rjust(size) if right else text.ljust(size)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[tuple[int, int]]:
    """Return the columns that have room in `width` cells, and the size of each."""
    natural = [
        min(column.widest or UNBOUNDED, max([len(column.name), *(_cells(_text(row[at])) for row in rows)]))
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))

    def taken() -> int:
        least = (min(natural[at], FLEXIBLE_MIN) if columns[at].flexible else natural[at] for at in shown)
        return sum(least) + GAP * (len(shown) - 1)

    while taken() > width and any(columns[at].expendable for at in shown):
        shown.remove(max(shown, key=lambda at: columns[at].expendable))
    left = width - sum(natural[at] + GAP for at in shown if not columns[at].flexible)
    return [(at, max(1, min(natural[at], left)) if columns[at].flexible else natural[at]) for at in shown]


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> Table:
    """Return a table of at most `width` cells. rich alone would shrink every column until none can be read."""
    from rich.table import Table
    from rich.text import Text

    shown = _fitted(columns, rows, width)
    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for at, size in shown:
        column = columns[at]
        found.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=size,
            max_width=size,
        )
    for row in rows:
        cells = [row[at] for at, _ in shown]
        found.add_row(*(Text(cell) if isinstance(cell, str) else Text(cell.plain, style=cell.style) for cell in cells))
    return found


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a terminal cannot show: escapes that JSON has, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    # click takes ASCII for a mistake of the locale, and would write UTF-8 all the same: under another name it does not.
    if name != "mooring_ascii":
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name="mooring_ascii", encode=ascii_.encode, decode=ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder, incrementaldecoder=ascii_.incrementaldecoder,
        streamreader=ascii_.streamreader, streamwriter=ascii_.streamwriter,
    )  # fmt: skip


def escape_what_cannot_be_shown() -> None:
    """Have output that is not UTF-8 escape what it cannot hold, instead of ending the command."""
    codecs.register_error("mooring-escape", _escaped)
    codecs.register(_plain_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="mooring_ascii" if is_ascii else None, errors="mooring-escape")


def plain(text: str) -> str:
    """Return `text` with everything escaped by which another side could drive the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
