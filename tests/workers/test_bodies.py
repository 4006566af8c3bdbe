"""Columns of event bodies: taken apart as `split` does it, however long they are."""

from __future__ import annotations

import random

from mooring import bodies
from tests.conftest import rounds


@rounds(300, 5_000)
def test_a_column_is_taken_apart_and_counted_as_split_does_it(rounds: int) -> None:
    for seed in range(rounds):
        chosen = random.Random(seed)
        length = chosen.choice((0, 3, 200, 400, 3_000, 9_000))
        column = [b"x" * chosen.randrange(length + 1) for _ in range(chosen.randrange(1, 9))]
        joined = b"\n".join(column)
        assert b"".join(bodies.lines(joined)) == joined, f"seed {seed}"
        assert [line.removesuffix(b"\n") for line in bodies.lines(joined)] == column, f"seed {seed}"
        for claimed in {len(column), *range(1, 12)}:
            assert bodies.split(joined, claimed) == column, f"seed {seed}"
            assert bodies.count(joined, claimed) == min(len(column), claimed + 1), f"seed {seed}, {claimed}"
