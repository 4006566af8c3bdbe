"""The tables that are made from what commits say: connections, and how far each incarnation is. Written behind the commits.

A commit is a row (`transaction`) and says what it changes; here that is folded and waits, so that a record that changes ten
times is written once, and written in small transactions between the commits. `derived` in `meta` is the position up to which
the tables are complete; what the rows behind it say is folded again at the start. Nothing else may be read from the tables
than what a start needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain

import apsw
import msgspec

from mooring.link.record import STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate
from mooring_service.journal.changes import Changes, decode_changes
from mooring_service.journal.retention import Marks
from mooring_service.journal.statements import ROWS, Sliced, Statement, execute

MAX_ROWS = 4_000  # so many may wait
MAX_BYTES = 4 * 1024 * 1024  # of events that a start would have to look through
FOLDED = 64  # what so many commits have changed is folded in at once
STEP_ROWS = 200  # in one transaction: about a millisecond
ENDED_INCARNATIONS = 1_000  # kept, so that a late frame of a dead process is known as repeated

_pack = msgspec.msgpack.Encoder().encode


_FIELDS = {kind: msgspec.structs.fields(kind) for kind in (ConnectionCreated, ConnectionUpdate)}
_FIRST_FIELDS = {ConnectionCreated: 10, ConnectionUpdate: 15}
"""How many the first release had: what says nothing that is newer is written as it was then, to the byte."""


def _record(part: ConnectionCreated | ConnectionUpdate) -> bytes:
    """Return a part of a record as it is kept: the newer fields up to the last that says something."""
    values = msgspec.structs.astuple(part)
    fields, first = _FIELDS[type(part)], _FIRST_FIELDS[type(part)]
    size = len(values)
    while size > first and values[size - 1] == fields[size - 1].default:
        size -= 1
    return _pack(values[:size])


class Derived:
    """What waits for the side tables. Of the writer's thread.

    Attributes:
        upto: The tables are complete up to this position.
        total_bytes: What `batches.total` said there.
    """

    def __init__(self) -> None:
        self.upto = 0
        self.total_bytes = 0
        self._waiting = Changes()
        self._taken: list[Changes] = []  # not yet folded into it
        self._taken_rows = 0
        self._gone: set[int] = set()
        self._last = 0  # up to here commits are folded in
        self._last_bytes = 0
        self._writing: Sliced | None = None
        self._then = (0, 0)  # where the tables are complete once all of `_writing` is written

    def recover(self, connection: apsw.Connection, marks: Marks) -> None:
        """Fold in what the tables do not have yet."""
        self.upto = connection.execute("SELECT value FROM meta WHERE name = 'derived'").get
        before = "SELECT total FROM batches WHERE first <= ? ORDER BY first DESC LIMIT 1"
        self.total_bytes = connection.execute(before, (self.upto,)).get or marks.gone_bytes
        # Behind the events up to `after`, and before all others, stands what was changed without an event.
        without = connection.execute("SELECT after, 0, id, changes FROM changes ORDER BY id")
        with_events = connection.execute(
            "SELECT first - 1, 1, 0, changes FROM batches WHERE first > ? AND changes NOTNULL ORDER BY first",
            (self.upto,),
        )
        for *_, changes in merge(with_events, without):
            self._waiting.merge(decode_changes(changes))
        self._last, self._last_bytes = marks.next_position - 1, marks.total_bytes

    def take(self, changes: Changes, marks: Marks) -> None:
        """Take what a commit has changed; with it the journal ends where `marks` say."""
        self._taken.append(changes)
        self._taken_rows += len(changes)
        if len(self._taken) >= FOLDED:
            self._fold()
        self._last, self._last_bytes = marks.next_position - 1, marks.total_bytes

    def _fold(self) -> None:
        """Fold in what was taken: many at once, as it costs a commit much more to come to this code than what it does."""
        for changes in self._taken:
            self._waiting.merge(changes)
            if self._gone:
                self._gone.difference_update(changes.created)
        self._taken.clear()
        self._taken_rows = 0

    def forget(self, connections: Iterable[int]) -> None:
        """Drop what is known of these connections. Should that not be written before a crash, they are known a little longer."""
        self._fold()
        for connection in connections:
            self._waiting.forget(connection)
            self._gone.add(connection)

    @property
    def due(self) -> bool:
        """True when there is something to write now."""
        return (
            self._writing is not None
            or self._last_bytes - self.total_bytes >= MAX_BYTES
            or len(self._waiting) + self._taken_rows + len(self._gone) >= MAX_ROWS
        )

    def write_some(self, connection: apsw.Connection) -> None:
        """Write some of what waits, in a transaction of its own. After an error it is written again."""
        if self._writing is None:
            self._writing = self._begin(connection)
            self._then = (self._last, self._last_bytes)
        # Between two steps the tables are ahead of `derived` in parts: what is folded in again behind it sets them right.
        if self._writing.step(connection):
            self._writing = None
            self.upto, self.total_bytes = self._then

    def write_all(self, connection: apsw.Connection) -> None:
        """Write all that waits."""
        while self._writing is not None or self._waiting or self._taken or self._gone or self.upto < self._last:
            self.write_some(connection)

    def apply(self, connection: apsw.Connection) -> None:
        """Execute all that waits inside the caller's transaction, which is rolled back: it goes on waiting."""
        self._fold()
        execute(connection, _of(self._waiting))

    def _begin(self, connection: apsw.Connection) -> Sliced:
        self._fold()
        last_change = connection.execute("SELECT max(id) FROM changes").get  # if it fails, all of that goes on waiting
        changes, self._waiting = self._waiting, Changes()
        gone, self._gone = self._gone, set()
        return Sliced(
            chain(
                _of(changes),
                [("DELETE FROM connections WHERE id = ?", (one,)) for one in gone],
                [
                    ("DELETE FROM changes WHERE id <= ?", (last_change,)),
                    ("UPDATE meta SET value = ? WHERE name = 'derived'", (self._last,)),
                ],
            ),
            STEP_ROWS,
        )


def _of(changes: Changes) -> Iterator[Statement]:
    """Return what brings `changes` into the tables."""
    updates, nothing = changes.updates, (None, 0)
    # Each is written once, so their order is free: those of the same statement stand together.
    for number in sorted(changes.created, key=lambda number: [bool(part) for part in updates.get(number, nothing)]):
        created, incarnation = changes.created[number]
        update, last = updates.get(number, nothing)
        known = "" if update is None else ", changing = excluded.changing"
        if last:
            known += ", last_position = excluded.last_position"
        yield (
            f"INSERT INTO connections VALUES {ROWS} ON CONFLICT (id) DO UPDATE SET created = excluded.created,"
            f" incarnation = iif(excluded.incarnation = '', incarnation, excluded.incarnation){known}",
            (
                number,
                _record(created),
                _record(update or ConnectionUpdate(number, STATUS_CONNECTING)),
                incarnation,
                last,
            ),
        )
    for number, (update, last) in updates.items():
        if number in changes.created:
            continue  # written with it
        yield (
            "UPDATE connections SET changing = now.column1, last_position = iif(now.column2 = 0, last_position, now.column2)"
            f" FROM (VALUES {ROWS}) AS now WHERE id = now.column3",
            (_record(update), last, number),
        )
    for incarnation, stored in changes.numbers.items():
        yield "UPDATE incarnations SET stored = ? WHERE incarnation = ?", (stored, incarnation)
    for incarnation in changes.ended:
        yield "UPDATE incarnations SET ended = 1 WHERE incarnation = ?", (incarnation,)
    if changes.ended:
        yield (
            "DELETE FROM incarnations WHERE ended AND NOT stands AND incarnation NOT IN (SELECT incarnation FROM connections)"
            " AND (SELECT count(*) FROM incarnations) > ?",
            (ENDED_INCARNATIONS,),
        )
