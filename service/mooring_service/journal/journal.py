"""The journal's protocol: the ordered record of all events, and of what must survive with them.

Two implementations: `sqlite` (durable) and `memory`; the same tests run on both. Nothing outside this room knows how events
are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.errors import JournalUnavailable
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, Batch, EventFilter


class JournalUnusable(JournalUnavailable):
    """Waiting does not mend it: the journal was written by a later mooring, or the SQLite in use would damage it."""


class Committed(msgspec.Struct, frozen=True):
    """What became of one `Append`: the `batch` with its events (None if it held none), the first of them at position `first`.

    What is committed together shares a batch as long as that is small. `repeated`: nothing was added, and nothing will be: it had
    been stored before, or can never be stored. `first_ask` is the number of the first of its `asks`; the others follow. `addition` is its
    number among those that a cluster is told; 0: it is none of them.
    """

    append: Append
    batch: Batch | None
    repeated: bool = False
    first_ask: int = 0
    first: int = 0
    addition: int = 0


class Incarnation(msgspec.Struct, frozen=True):
    """One process of a worker as the journal knows it; `stored` is the number of its last stored `Append`.

    `stands`: it has ended, and its worker is there all the same: it is to be started again, or is Failed.
    """

    incarnation: str
    worker: str
    stored: int
    record: bytes
    ended: bool
    stands: bool = False


class StoredAsk(msgspec.Struct, frozen=True):
    """What code in a worker has asked for, and is not done yet: its number, who has asked, and the message of the link."""

    number: int
    worker: str
    ask: bytes


class StoredConnection(msgspec.Struct, frozen=True):
    """One connection as the journal knows it; `last_position` is that of its last event (0: none).

    `last_event_ms`: when that was committed, by the clock that tells ages; the oldest that is kept stands for what is not.
    """

    created: ConnectionCreated
    update: ConnectionUpdate
    incarnation: str
    last_position: int
    last_event_ms: int = 0


class StoredHook(msgspec.Struct, frozen=True):
    """A hook's place: everything up to `position` of `epoch` is done. `state` is the hook's own, opaque here.

    It rides with no event, so nothing can derive it. An epoch that is not the journal's is that of a copy that was restored.
    """

    name: str
    generation: int
    epoch: str
    position: int
    state: bytes


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
    asks: list[StoredAsk] = []
    hooks: list[StoredHook] = []
    set_aside: str | None = None
    """Path of a corrupt file that was set aside at this start; a new epoch began."""


class JournalStats(msgspec.Struct, frozen=True):
    """Figures for operators."""

    events: int
    bytes: int
    oldest_age_s: float | None
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
    as many at once as are waiting, and `on_committed` is then called on the event loop, once for each commit, with all that it
    held, in order. While the journal cannot be written (`failure` is a reason then) appended items stay queued, and
    are committed when it can be written again; `on_failure` is called at each change. `on_death` is called when nothing
    will ever be written again by this process: it should end, and leave what it keeps to the next one.
    `holes` are in their order: (the last position before one, the last one in it). What happened there it was never told.
    """

    epoch: str
    holes: list[tuple[int, int]]

    async def start(
        self,
        on_committed: Callable[[list[Committed]], None],
        on_failure: Callable[[str | None], None],
        on_death: Callable[[str], None] | None = None,
    ) -> Recovered:
        """Open, check and migrate; return what was held. Must be called first; once it has returned, never again.

        Raises:
            JournalUnusable: If a later mooring has written it, or the SQLite in use is too old.
            JournalUnavailable: If it cannot be opened just now; it may be tried again.
        """
        ...

    async def stop(self) -> None:
        """Commit what is queued, if it can be, and close."""
        ...

    def append(self, item: Append, *, others_follow: bool = False) -> None:
        """Queue `item`. With `others_follow` it may wait a moment for them, to be committed together."""
        ...

    def append_waiting(self, item: Append, *, fails_fast: bool = False) -> asyncio.Future[Committed]:
        """Queue `item`; the future ends when it is committed, after `on_committed` has been called for it.

        With `fails_fast` it is dropped, and the future raises `JournalUnavailable`, if it cannot be written now.
        """
        ...

    def hurry(self) -> None:
        """A request is answered once what is queued is committed: that waits for nothing else that may come meanwhile."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the journal cannot be written just now, or None. So it is, too, where it could not be opened."""
        ...

    @property
    def damaged(self) -> bool:
        """Whether it was found damaged since it was opened: the next start sets it aside."""
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

    @property
    def first_id(self) -> int:
        """Below all ids that may be given out now: of a node of a cluster it changes where it begins anew, and those reserved before are void.

        Raises:
            JournalUnavailable: If none may be given out yet.
        """
        ...

    async def save_incarnation(
        self, incarnation: str, worker: str, record: bytes, *, ended: bool = False, stands: bool = False
    ) -> None:
        """Keep what identifies a worker process (opaque to the journal), or that it has ended.

        Args:
            stands: Its worker is there all the same; that is over once another process of the same worker is saved, or this one again.
        """
        ...

    async def forget_connections(self, ids: list[int]) -> None:
        """Drop records of closed connections that are no longer retained (their events stay until pruned), once that can be written."""
        ...

    async def claim_key(self, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """Claim an Idempotency-Key: None when it is new and now ours, else what it stands for (24 h)."""
        ...

    async def answer_key(self, key: str, answer: bytes | None) -> None:
        """Store the answer of a claimed key; None gives the key up."""
        ...

    async def save_hook(self, hook: StoredHook, *, fails_fast: bool = False) -> None:
        """Keep a hook's place. Without `fails_fast` it waits while the journal cannot be written."""
        ...

    async def forget_hook(self, name: str) -> None:
        """Drop a hook's place."""
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to the new file `path` (SQLite only). Once this has ended nobody writes there any more.

        It may be cancelled: the copy is given up then.
        """
        ...

    def now_ms(self) -> int:
        """Return the time by which ages are told, in milliseconds: no jump of the wall clock moves it. Any thread may ask."""
        ...

    def stats(self) -> JournalStats:
        """Return figures; cheap."""
        ...
