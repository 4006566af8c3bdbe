"""The journal's protocol: the ordered record of all events, and of what must survive with them.

Two implementations: `sqlite` (durable) and `memory`; the same tests run on both. Nothing outside this room knows how events
are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, Batch, EventFilter


class Committed(msgspec.Struct, frozen=True):
    """What became of one `Append`: its `batch` (None if it held no event), or `repeated`: it had been stored before."""

    append: Append
    batch: Batch | None
    repeated: bool = False


class Incarnation(msgspec.Struct, frozen=True):
    """One process of a worker as the journal knows it; `stored` is the number of its last stored `Append`."""

    incarnation: str
    worker: str
    stored: int
    record: bytes
    ended: bool


class StoredConnection(msgspec.Struct, frozen=True):
    """One connection as the journal knows it; `last_position` is that of its last event (0: none)."""

    created: ConnectionCreated
    update: ConnectionUpdate
    incarnation: str
    last_position: int


class StoredAnswer(msgspec.Struct, frozen=True):
    """What an Idempotency-Key stands for; `answer` is None while the request runs (or ran when the service died)."""

    key: str
    fingerprint: bytes
    created_at_ms: int
    answer: bytes | None


class Recovered(msgspec.Struct, frozen=True):
    """What a journal held when it was opened."""

    connections: list[StoredConnection]
    incarnations: list[Incarnation]
    set_aside: str | None = None
    """Path of a corrupt file that was set aside at this start; a new epoch began."""


class JournalStats(msgspec.Struct, frozen=True):
    """Figures for operators."""

    events: int
    bytes: int
    oldest_time_ms: int | None
    first: int
    last: int
    queued_bytes: int
    commits: int
    commit_seconds: float
    last_commit_s: float
    batches: int
    failure: str | None
    """`batches` and `commits` are counted from this start."""


class Journal(Protocol):
    """The ordered record. Positions count events from 1; `epoch` names this life of the record.

    Everything is called from the event loop's thread. `append` never blocks: what is appended is committed in order,
    as many at once as are waiting, and `on_committed` is then called on the event loop, in order, with all that one
    transaction held. While the journal cannot be written (`failure` is a reason then) appended items stay queued, and
    are committed when it can be written again; `on_failure` is called at each change.
    """

    epoch: str

    async def start(
        self,
        on_committed: Callable[[list[Committed]], None],
        on_failure: Callable[[str | None], None],
    ) -> Recovered:
        """Open, check and migrate; return what was held. Must be called first, once."""
        ...

    async def stop(self) -> None:
        """Commit what is queued, if it can be, and close."""
        ...

    def append(self, item: Append) -> None:
        """Queue `item`."""
        ...

    def append_waiting(self, item: Append, *, fails_fast: bool = False) -> asyncio.Future[Committed]:
        """Queue `item`; the future ends when it is committed, after `on_committed` has been called for it.

        With `fails_fast` it is dropped, and the future raises `JournalUnavailable`, if it cannot be written now.
        """
        ...

    @property
    def failure(self) -> str | None:
        """Why the journal cannot be written just now, or None."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes queued and not yet committed: whoever feeds the journal pauses above a bound."""
        ...

    @property
    def first(self) -> int:
        """Position of the oldest event kept; `last` + 1 when none is kept."""
        ...

    @property
    def last(self) -> int:
        """Position of the newest committed event; 0 when there never was one."""
        ...

    async def read(self, after: int, events: EventFilter, limit_bytes: int) -> tuple[list[Batch], int]:
        """Return batches that may hold wanted events past `after`, oldest first, and the position read up to.

        Reads at most about `limit_bytes`, and at least one batch if there is one; the caller selects within a batch
        (`EventFilter.select`). Everything wanted up to the returned position is in the returned batches; when that
        position equals `last` (as it was at the call), there is nothing more for now. From a place that was pruned
        nothing is read: the caller compares with `first`, and tells of the gap. No read transaction outlives the call.
        """
        ...

    async def allot_ids(self, count: int) -> int:
        """Reserve `count` connection ids for ever and return the first of them."""
        ...

    async def save_incarnation(self, incarnation: str, worker: str, record: bytes, *, ended: bool = False) -> None:
        """Keep what identifies a worker process (opaque to the journal), or that it has ended."""
        ...

    async def forget_connections(self, ids: list[int]) -> None:
        """Drop records of closed connections that are no longer retained (their events stay until pruned)."""
        ...

    async def claim_key(self, key: str, fingerprint: bytes, time_ms: int) -> StoredAnswer | None:
        """Claim an Idempotency-Key: None when it is new and now ours, else what it stands for (24 h)."""
        ...

    async def answer_key(self, key: str, answer: bytes | None) -> None:
        """Store the answer of a claimed key; None gives the key up."""
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to the new file `path` (SQLite only)."""
        ...

    def stats(self) -> JournalStats:
        """Return figures; cheap."""
        ...
