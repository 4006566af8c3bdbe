"""Statements of many rows: in few executions, and, behind the commits, in many small transactions.

Each execution gives the interpreter's lock away, and beside a busy event loop it takes up to milliseconds to have it back, while no
commit can be made. So what is written row by row is executed by fifty of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, groupby, islice
from operator import itemgetter

import apsw

ROWS = "{rows}"
AT_ONCE = 50  # rows of one statement

Statement = tuple[str, tuple[object, ...]]
"""SQL, and what is bound. Those that follow each other with the same SQL are executed as one where `ROWS` stands for what is bound."""


class Sliced:
    """Executes statements in order, `rows` of them in one transaction, so that no commit has to wait for all of them.

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
                execute(connection, step)
        except BaseException:
            self._left = chain(step, self._left)
            raise
        return len(step) < self._rows


def execute(connection: apsw.Connection, statements: Iterable[Statement]) -> None:
    """Execute `statements` in their order."""
    for sql, same in groupby(statements, itemgetter(0)):
        if ROWS not in sql:
            for _, bindings in same:
                connection.execute(sql, bindings)
            continue
        while rows := [bindings for _, bindings in islice(same, AT_ONCE)]:
            row = f"({', '.join('?' * len(rows[0]))})"
            text = sql.replace(ROWS, ", ".join([row] * len(rows)))
            # Not cached: each number of rows is a text of its own, and what is cached keeps what was bound to it.
            connection.execute(text, tuple(chain.from_iterable(rows)), can_cache=len(rows) == 1)
