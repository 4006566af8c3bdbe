"""Tables: what a pipe gets is what a terminal shows, without its colours."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console

from mooring_api.commands.tables import Cell, Column, Styled, pipe_lines, table
from tests.conftest import rounds

COLUMNS = (
    Column("ID", right=True),
    Column("STATUS"),
    Column("WORKER", widest=10),
    Column("IN", right=True, expendable=1),
    Column("OUT", right=True, expendable=2),
    Column("URL", flexible=True),
)


@rounds(100, 2_000)
def test_a_pipe_gets_the_very_letters_that_a_terminal_shows(rounds: int) -> None:
    for seed in range(rounds):
        chosen = random.Random(seed)
        width = chosen.choice((60, 70, 80, 120, 100_000))
        rows: list[list[Cell]] = []
        for number in range(chosen.randrange(6)):
            status = chosen.choice(("Connected", "Reconnecting 4th in 12 s"))
            path = "x" * chosen.randrange(80)
            rows.append([str(number), Styled(status, "green"), "w" * chosen.randrange(14), "1", "22", f"ws://h/{path}"])
        drawn = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
        drawn.print(table(COLUMNS, rows, width))
        assert isinstance(drawn.file, io.StringIO)
        expected = [line.rstrip() for line in drawn.file.getvalue().splitlines()]
        lines = [line.rstrip() for line in pipe_lines(COLUMNS, rows, width)]
        assert lines == expected, f"seed {seed}"


@pytest.mark.parametrize("width", [30, 100_000])
def test_a_value_that_is_too_long_ends_in_an_ellipsis(width: int) -> None:
    columns = (Column("NAME", flexible=True), Column("REASON", widest=6))
    (head, line) = pipe_lines(columns, [("n" * 50, "because")], width)
    assert head.split() == ["NAME", "REASON"]
    name, reason = line.split()
    assert reason == "becau…"
    assert name == ("n" * 50 if width > 50 else "n" * 21 + "…")
