"""Statements that take many small transactions, so that no commit has to wait for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice

import apsw

Statement = tuple[str, tuple[object, ...]]


class Sliced:
    """Executes statements in order, `rows` of them in one transaction.

    A crash leaves a part of them: whoever made them lets the last ones say that the others are there.
    """

    def __init__(self, statements: Iterable[Statement], rows: int) -> None:
        self._left = iter(statements)
        self._rows = rows

    def step(self, connection: apsw.Connection) -> bool:
        """Execute the next ones; True once all are. After an error they are tried again by the next call."""
        step = list(islice(self._left, self._rows))
        try:
            with connection:
                for sql, bindings in step:
                    connection.execute(sql, bindings)
        except BaseException:
            self._left = chain(step, self._left)
            raise
        return len(step) < self._rows
