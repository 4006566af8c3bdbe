"""Events as columns: how the journal stores them, the feed hands them on, and the API renders them. Leaf.

What one commit adds is one batch, as far as it is small (`BatchBuilder`), so its events may be of several workers.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count

import msgspec

from mooring import bodies
from mooring.events import Kind
from mooring.link.record import ConnectionCreated, ConnectionUpdate

MAX_NUMBER = 1 << 63  # what SQLite holds, and the columns
MANY = 16  # so many connections are looked for in a column at once
SHORT_BYTES = 512  # … and any in a column that is no longer
_KINDS = bytes(kind for kind in Kind if kind is not Kind.gap)


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What an addition asks for in the name of its node: a `worker`, a `name`, a `key`. What it is worth is the cluster's affair.

    `value`: of a worker "" (mine) or None (given up); of a name the connection's id; of a key its fingerprint and the time in milliseconds.
    """

    what: str
    key: str
    value: str | int | tuple[bytes, int] | None = None


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic addition to the journal: events and the records that change with them.

    From a worker it bears `incarnation` and `number` (1, 2, 3, …): the same pair twice is stored once. What the
    service itself adds has number 0. The columns are those of `mooring.link.messages.Events`. `answers` are those of
    Idempotency-Keys (key, answer) that become known with it. `asks` are what code in the worker asks for, as messages of the link:
    each is kept, under a number of its own, until an addition names it in `asks_done`.
    `ended` is an incarnation whose process has ended: what it could not report is in the same addition.
    `began_at_us` is when the oldest event was recorded (0: not known); it is not kept.
    In a cluster, `specs` are what opens its persisted connections again, `claims` what its node asks for, and `at` is the position
    of its first event (0: behind what was added last). `taken`: its asks came from another node, and are done here.
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
    specs: list[bytes] = []
    claims: list[Claim] = []
    at: int = 0
    taken: bool = False

    @property
    def wrong(self) -> str | None:
        """Why it can never be stored, or never be shown; None if it can. Workers share their process with code that is not ours."""
        events = len(self.kinds)
        if len(self.connections) != 8 * events:
            return f"{len(self.connections)} bytes of connections for {events} events"
        there = bodies.count(self.bodies, events) if events or self.bodies else 0
        if there != events:
            return f"{there} bodies for {events} events"
        if self.kinds.translate(None, _KINDS):
            return "events of unknown kinds"
        if not 0 <= self.number < MAX_NUMBER:
            return "a number out of range"
        for update in self.updates:
            if not 0 < update.id < MAX_NUMBER:
                return "a number out of range"
        for created in self.created:
            if not 0 < created.id < MAX_NUMBER:
                return "a number out of range"
            if created.worker != self.worker:
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


def last_of(connections: bytes, first: int, connection: int) -> int:
    """Return the position of the last event of `connection` in a column that begins at `first`; 0 when it has none."""
    wanted = connection.to_bytes(8, "little", signed=True)
    at = connections.rfind(wanted)
    while at > 0 and at % 8:  # a match across two ids is none
        at = connections.rfind(wanted, 0, at + 7)
    return first + at // 8 if at >= 0 and not at % 8 else 0


def lasts_of(connections: bytes, first: int, asked: int) -> Callable[[int], int]:
    """Return `last_of` for a column of which so many connections are `asked`: many are looked for once, and not each from the end."""
    if asked < MANY and len(connections) > SHORT_BYTES:
        return lambda connection: last_of(connections, first, connection)
    return defaultdict(int, zip(array("q", connections), count(first), strict=False)).__getitem__


def ids_of(connections: bytes) -> set[int]:
    """Return the connections in a column."""
    if _alike(connections):  # a flood of one of them: the column is long
        connections = connections[:8]
    return set(array("q", connections)) - {0}


def _alike(connections: bytes) -> bool:
    return connections == connections[:8] * (len(connections) // 8)


def kinds_of(kinds: bytes) -> set[int]:
    """Return the kinds in a column."""
    found = set()
    while kinds:
        found.add(kinds[0])
        kinds = kinds.translate(None, kinds[:1])
    return found


class Batch:
    """Committed events `first` … `last`, in order.

    Attributes:
        first: Position of the first event in the journal.
        worker: Whose events they are; ``""`` when they are of several.
        workers: Then: their names.
        worker_of: Then: per event, one byte: its index in `workers`.
        connections: Per event, the connection's id; 0 for events that belong to none.
        kinds: Per event, one byte: `mooring.events.Kind`.
        joined: The bodies, joined by line feeds; `bodies` splits them, once.
        time_ms: When it was committed, milliseconds since 1970.
        rendered: What renderers keep here to share between subscribers, by their own key.
        cold: No longer among the newest: nothing is kept with it any more (`cool`).
    """

    __slots__ = (
        "_bodies", "cold", "connections", "first", "joined", "kinds", "rendered", "time_ms", "worker", "worker_of", "workers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        first: int,
        worker: str,
        connections: bytes,
        kinds: bytes,
        bodies: bytes,
        time_ms: int,
        workers: tuple[str, ...] = (),
        worker_of: bytes = b"",
    ) -> None:
        self.first = first
        self.worker = worker
        self.workers = workers
        self.worker_of = worker_of
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
        found = bodies.split(self.joined, len(self.kinds))
        if not self.cold:
            self._bodies = found
        return found

    @property
    def lines(self) -> list[bytes]:
        """Per event, its body with a line feed, but for the last: for who joins them again, and keeps what comes of it."""
        return bodies.lines(self.joined)

    def cool(self) -> None:
        """Give back what was kept for subscribers that keep up; those that lag make it anew, for themselves."""
        self.cold = True
        self._bodies = None
        self.rendered = {}

    def last_of(self, connection: int) -> int:
        """Return the position of the last event of `connection`; 0 when it has none here."""
        return last_of(self.connections.tobytes(), self.first, connection)

    def is_of_one(self, of: frozenset[int]) -> bool:
        """Say whether all events are of one connection, and that is one `of` these: a flood, which nobody has to go through."""
        return self.connections[0] in of and _alike(self.connections.tobytes())

    def until(self, last: int) -> Batch:
        """Return the events up to position `last`, of which there is at least one here."""
        return self if last >= self.last else self._slice(0, last + 1 - self.first)

    def pieces(self, indices: Sequence[int]) -> list[Batch]:
        """Return the events at these indices alone, in as many batches as it takes; indices grow."""
        found = []
        begin = end = indices[0]
        for index in [*indices[1:], -1]:
            end += 1
            if index != end:
                found.append(self._slice(begin, end))
                begin = end = index
        return found

    def _slice(self, begin: int, end: int) -> Batch:
        return Batch(
            first=self.first + begin,
            worker=self.worker,
            workers=self.workers,
            worker_of=self.worker_of[begin:end],
            connections=self.connections[begin:end].tobytes(),
            kinds=self.kinds[begin:end],
            bodies=b"\n".join(self.bodies[begin:end]),
            time_ms=self.time_ms,
        )

    @property
    def size(self) -> int:
        """Bytes that the columns take."""
        return batch_size(len(self.joined), len(self.kinds))


class BatchBuilder:
    """Gathers events that follow each other into one `Batch`, as long as it stays small.

    Attributes:
        size: Bytes that the columns take so far.
        count: Events so far.
    """

    MAX_WORKERS = 256  # an event names its worker by one byte

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._clear()

    def _clear(self) -> None:
        self._names: dict[str, int] = {}
        self._worker_of: list[bytes] = []
        self._connections: list[bytes] = []
        self._kinds: list[bytes] = []
        self._bodies: list[bytes] = []
        self.size = 0
        self.count = 0

    def takes(self, body_bytes: int, events: int, workers: int = 1) -> bool:
        """Say whether so much more still fits; anything fits into an empty one."""
        return not self.count or (
            self.size + body_bytes + 9 * events <= self._max_bytes and len(self._names) + workers <= self.MAX_WORKERS
        )

    def add(
        self,
        worker: str,
        connections: bytes,
        kinds: bytes,
        bodies: bytes,
        workers: tuple[str, ...] = (),
        worker_of: bytes = b"",
    ) -> None:
        """Take further events, as columns; `workers` and `worker_of` as in `Batch`."""
        names = self._names
        if workers:
            renumbered = bytes(names.setdefault(name, len(names)) for name in workers)
            self._worker_of.append(worker_of.translate(renumbered.ljust(256, b"\0")))
        else:
            self._worker_of.append(bytes((names.setdefault(worker, len(names)),)) * len(kinds))
        self._connections.append(connections)
        self._kinds.append(kinds)
        self._bodies.append(bodies)
        self.size = batch_size(len(bodies), len(kinds)) if not self.count else self.size + len(bodies) + 9 * len(kinds)
        self.count += len(kinds)

    def build(self, first: int, time_ms: int) -> Batch:
        """Return what was gathered, and begin anew."""
        names = tuple(self._names)
        several = len(names) > 1
        batch = Batch(
            first=first,
            worker="" if several else names[0],
            workers=names if several else (),
            worker_of=b"".join(self._worker_of) if several else b"",
            connections=b"".join(self._connections),
            kinds=b"".join(self._kinds),
            bodies=b"\n".join(self._bodies),
            time_ms=time_ms,
        )
        self._clear()
        return batch


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
        kinds = batch.kinds
        found: Sequence[int] = range(max(0, after + 1 - batch.first), len(kinds))
        if self.workers:
            if not batch.worker_of:
                if batch.worker not in self.workers:
                    return []
            else:
                wanted = {at for at, name in enumerate(batch.workers) if name in self.workers}
                if len(wanted) < len(batch.workers):
                    worker_of = batch.worker_of
                    found = [at for at in found if worker_of[at] in wanted] if wanted else []
        if self.connections and not batch.is_of_one(self.connections):
            wanted_connections, connections = self.connections, batch.connections
            if len(wanted_connections) < len(connections) and wanted_connections.isdisjoint(connections):
                return []
            found = [at for at in found if connections[at] in wanted_connections]
        if self.kinds and kinds.translate(None, bytes(self.kinds)):
            wanted_kinds = self.kinds
            found = [at for at in found if kinds[at] in wanted_kinds]
        return None if len(found) == len(kinds) else list(found)


KIND_BY_NAME: dict[str, int] = {kind.name: int(kind) for kind in Kind}
