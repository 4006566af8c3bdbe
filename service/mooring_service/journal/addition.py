"""What other services need of an `Append`: the bytes that are kept for them, and that stand in the log of a cluster. Pure.

By place, as on the link: new fields get defaults and go last; none is ever retyped.
"""

from __future__ import annotations

import msgspec

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, Claim


class Addition(msgspec.Struct, frozen=True, array_like=True):
    """One committed `Append`, without what concerns its own service alone. The columns are those of `Append`."""

    worker: str
    incarnation: str
    number: int
    connections: bytes
    kinds: bytes
    bodies: bytes
    created: list[ConnectionCreated] = []
    updates: list[ConnectionUpdate] = []
    answers: list[tuple[str, bytes]] = []
    specs: list[bytes] = []
    asks: list[bytes] = []
    ended: str = ""
    claims: list[Claim] = []
    first_ask: int = 0  # the number of the first of `asks` in its own journal

    def append(self, *, at: int = 0) -> Append:
        """Return it as what is added to the journal of the log: its events begin at position `at`.

        Without the number: whose frame it was is known by its place in the log, and a worker's numbers begin anew at each process.
        """
        return Append(
            worker=self.worker,
            incarnation=self.incarnation,
            connections=self.connections,
            kinds=self.kinds,
            bodies=self.bodies,
            created=self.created,
            updates=self.updates,
            claims=self.claims,
            at=at,
        )


_encode = msgspec.msgpack.Encoder().encode
decode_addition = msgspec.msgpack.Decoder(Addition).decode


def encode_addition(append: Append, first_ask: int = 0) -> bytes | None:
    """Return what others need of `append`; None if that is nothing. `first_ask` is the number of the first of its asks."""
    asks = [] if append.taken else append.asks
    if not (
        append.kinds or append.created or append.updates or append.answers or append.ended or append.claims or asks
    ):
        return None
    return _encode(
        Addition(
            append.worker,
            append.incarnation,
            append.number,
            append.connections,
            append.kinds,
            append.bodies,
            append.created,
            append.updates,
            append.answers,
            append.specs,
            asks,
            append.ended,
            append.claims,
            first_ask if asks else 0,
        )
    )
