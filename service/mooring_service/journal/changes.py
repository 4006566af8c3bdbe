"""What additions change beside their events, folded together: how it rides in the row of a commit, and waits to be written out. Pure.

Connections have a latest record, incarnations a last number. Folding what came first, then what came later gives the same as
folding all of it; a piece that is folded again, behind others that came before it, is harmless if those behind it follow, too.
"""

from __future__ import annotations

from array import array

import msgspec

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, lasts_of


class Changes(msgspec.Struct, array_like=True):
    """The latest of each connection and incarnation. Stored as msgpack: new fields get defaults and go last.

    Attributes:
        created: By id: the record that never changes, and the connection's incarnation (``""``: as it was).
        updates: By id: the changing part, whole, and the position of the connection's last event (0: as it was).
        numbers: By incarnation: the number of its last stored `Append`.
        ended: Incarnations whose process has ended.
    """

    created: dict[int, tuple[ConnectionCreated, str]] = {}
    updates: dict[int, tuple[ConnectionUpdate, int]] = {}
    numbers: dict[str, int] = {}
    ended: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.created or self.updates or self.numbers or self.ended)

    def __len__(self) -> int:
        """How many rows of the side tables are to be written."""
        return len(self.created) + len(self.updates) + len(self.numbers) + len(self.ended)

    def add(self, append: Append, first: int) -> None:
        """Fold in what `append` changes; its events begin at position `first`.

        Raises:
            OverflowError: If an id is none that a table can hold; nothing is folded in then.
        """
        array("q", [*[created.id for created in append.created], *[update.id for update in append.updates]])
        for created in append.created:
            self._create(created, append.incarnation)
        last_of = lasts_of(append.connections, first, len(append.updates))
        for update in append.updates:
            self._update(update, last_of(update.id))
        if append.number:
            self.numbers[append.incarnation] = append.number
        if append.ended:
            self.ended.append(append.ended)

    def merge(self, later: Changes) -> None:
        """Fold in what came later."""
        for created, incarnation in later.created.values():
            self._create(created, incarnation)
        for update, last in later.updates.values():
            self._update(update, last)
        self.numbers.update(later.numbers)
        self.ended += later.ended

    def forget(self, connection: int) -> None:
        """Have nothing of `connection` any more."""
        self.created.pop(connection, None)
        self.updates.pop(connection, None)

    def _create(self, created: ConnectionCreated, incarnation: str) -> None:
        if not incarnation and created.id in self.created:
            incarnation = self.created[created.id][1]
        self.created[created.id] = (created, incarnation)

    def _update(self, update: ConnectionUpdate, last: int) -> None:
        if not last and update.id in self.updates:
            last = self.updates[update.id][1]
        self.updates[update.id] = (update, last)


encode_changes = msgspec.msgpack.Encoder().encode
decode_changes = msgspec.msgpack.Decoder(Changes).decode
