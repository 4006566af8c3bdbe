"""Tables that fit the terminal, and text of others that cannot drive it."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def console() -> Console:
    """Return a console as wide as the terminal; what goes into a pipe is not cut, unless $COLUMNS says so."""
    found = Console(highlight=False, markup=False, emoji=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        return Console(highlight=False, markup=False, emoji=False, width=UNBOUNDED)
    return found


def table(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Return a table of at most `width` cells. rich alone would shrink every column until none can be read."""
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    natural = [
        min(column.widest or UNBOUNDED, max([len(column.name), *(cell_len(row[at].plain) for row in cells)]))
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))

    def taken() -> int:
        least = (min(natural[at], FLEXIBLE_MIN) if columns[at].flexible else natural[at] for at in shown)
        return sum(least) + GAP * (len(shown) - 1)

    while taken() > width and any(columns[at].expendable for at in shown):
        shown.remove(max(shown, key=lambda at: columns[at].expendable))
    left = width - sum(natural[at] + GAP for at in shown if not columns[at].flexible)
    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for at in shown:
        column = columns[at]
        size = max(1, min(natural[at], left)) if column.flexible else natural[at]
        found.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=size,
            max_width=size,
        )
    for row in cells:
        found.add_row(*(row[at] for at in shown))
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
