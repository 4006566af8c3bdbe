"""Events as columns: how the journal stores them, the feed hands them on, and the API renders them. Leaf."""

from __future__ import annotations

from array import array

import msgspec

from mooring.events import Kind
from mooring.link.messages import ConnectionCreated, ConnectionUpdate

MAX_NUMBER = 1 << 63  # what SQLite holds, and the columns
_KINDS = bytes(kind for kind in Kind if kind is not Kind.gap)


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic addition to the journal: events and the records that change with them.

    From a worker it bears `incarnation` and `number` (1, 2, 3, …): the same pair twice is stored once. What the
    service itself adds has number 0. The columns are those of `mooring.link.messages.Events`. `answers` are those of
    Idempotency-Keys (key, answer) that become known with it. `asks` are what code in the worker asks for, as messages of the link:
    each is kept, under a number of its own, until an addition names it in `asks_done`.
    `ended` is an incarnation whose process has ended: what it could not report is in the same addition.
    `began_at_us` is when the oldest event was recorded (0: not known); it is not kept.
    """

    worker: str = ""
    incarnation: str = ""
    number: int = 0
    connections: bytes = b""
    kinds: bytes = b""
    bodies: bytes = b""
    created: list[ConnectionCreated] = []
    updates: list[ConnectionUpdate] = []
    answers: list[tuple[str, bytes]] = []
    asks: list[bytes] = []
    asks_done: list[int] = []
    ended: str = ""
    began_at_us: int = 0

    @property
    def wrong(self) -> str | None:
        """Why it can never be stored, or never be shown; None if it can. Workers share their process with code that is not ours."""
        events = len(self.kinds)
        if len(self.connections) != 8 * events:
            return f"{len(self.connections)} bytes of connections for {events} events"
        bodies = self.bodies.count(b"\n") + 1 if events or self.bodies else 0
        if bodies != events:
            return f"{bodies} bodies for {events} events"
        if self.kinds.translate(None, _KINDS):
            return "events of unknown kinds"
        if not 0 <= self.number < MAX_NUMBER or not all(
            0 < record.id < MAX_NUMBER for records in (self.created, self.updates) for record in records
        ):
            return "a number out of range"
        if not all(created.worker == self.worker for created in self.created):
            return "a connection of another worker"
        return None

    @property
    def size(self) -> int:
        """Bytes that this holds, roughly: for bounds."""
        size = len(self.bodies) + 9 * len(self.kinds) + 200 * (len(self.created) + len(self.updates)) + 100
        return size + sum(map(len, self.asks)) if self.asks else size


def batch_size(body_bytes: int, events: int) -> int:
    """Return the bytes that the columns of so many events take."""
    return body_bytes + 9 * events + 100


class Batch:
    """Committed events `first` … `last` of one worker, in order.

    Attributes:
        first: Position of the first event in the journal.
        connections: Per event, the connection's id; 0 for events that belong to none.
        kinds: Per event, one byte: `mooring.events.Kind`.
        joined: The bodies, joined by line feeds; `bodies` splits them, once.
        time_ms: When it was committed, by the clock that tells ages (`clock.AgeClock`).
        rendered: What renderers keep here to share between subscribers, by their own key.
        cold: No longer among the newest: nothing is kept with it any more (`cool`).
    """

    __slots__ = ("_bodies", "cold", "connections", "first", "joined", "kinds", "rendered", "time_ms", "worker")

    def __init__(
        self, *, first: int, worker: str, connections: bytes, kinds: bytes, bodies: bytes, time_ms: int
    ) -> None:
        self.first = first
        self.worker = worker
        self.connections = array("q", connections)
        self.kinds = kinds
        self.joined = bodies
        self.time_ms = time_ms
        self._bodies: list[bytes] | None = None
        self.rendered: dict[object, bytes] = {}
        self.cold = False

    @property
    def last(self) -> int:
        """Position of the last event."""
        return self.first + len(self.kinds) - 1

    @property
    def bodies(self) -> list[bytes]:
        """Per event, its JSON without the id (`mooring.events`)."""
        if self._bodies is not None:
            return self._bodies
        bodies = self.joined.split(b"\n")
        if not self.cold:
            self._bodies = bodies
        return bodies

    def cool(self) -> None:
        """Give back what was kept for subscribers that keep up; those that lag make it anew, for themselves."""
        self.cold = True
        self._bodies = None
        self.rendered = {}

    def last_of(self, connection: int) -> int:
        """Return the position of the last event of `connection`; 0 when it has none here."""
        wanted = connection.to_bytes(8, "little", signed=True)
        raw = self.connections.tobytes()
        at = raw.rfind(wanted)
        while at > 0 and at % 8:  # a match across two ids is none
            at = raw.rfind(wanted, 0, at + 7)
        return self.first + at // 8 if at >= 0 and not at % 8 else 0

    @property
    def size(self) -> int:
        """Bytes that the columns take."""
        return batch_size(len(self.joined), len(self.kinds))


class EventFilter(msgspec.Struct, frozen=True):
    """Which events a subscriber wants; an empty set means all. Sets are or-ed inside, and-ed together."""

    connections: frozenset[int] = frozenset()
    workers: frozenset[str] = frozenset()
    kinds: frozenset[int] = frozenset()

    @property
    def everything(self) -> bool:
        """True when no event is left out."""
        return not (self.connections or self.workers or self.kinds)

    def select(self, batch: Batch, after: int) -> list[int] | None:
        """Return the indices in `batch` of wanted events past position `after`; None when that is all of them.

        `gap` events belong to streams, not to the journal, so a filter never sees them.
        """
        start = max(0, after + 1 - batch.first)
        if self.workers and batch.worker not in self.workers:
            return []
        if not self.connections and not self.kinds:
            return None if start == 0 else list(range(start, len(batch.kinds)))
        wanted_connections, wanted_kinds = self.connections, self.kinds
        connections, kinds = batch.connections, batch.kinds
        found = [
            index
            for index in range(start, len(kinds))
            if (not wanted_connections or connections[index] in wanted_connections)
            and (not wanted_kinds or kinds[index] in wanted_kinds)
        ]
        return None if len(found) == len(kinds) else found


KIND_BY_NAME: dict[str, int] = {kind.name: int(kind) for kind in Kind}
