"""id → connection record, folded from what the journal has committed. It decides nothing: the worker does.

GETs are answered from here and never wait for a worker. Who has something to wait for, waits here, too (`until`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from mooring.errors import JournalUnavailable, UnknownConnection
from mooring.events import now_us
from mooring.link.record import STATUS_CONNECTED, STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate, Down
from mooring_service.census import Census
from mooring_service.journal.batch import lasts_of
from mooring_service.journal.journal import Committed, Journal, StoredConnection
from mooring_service.records import ConnectionRecord, record_of

PRUNE_INTERVAL_S = 5.0
LOOKS = 500  # at connections, in one step of a list, or of what is forgotten: it may be thousands


class Entry:
    """What is known of one connection; `last_position` is that of its last event (0: none)."""

    __slots__ = ("created", "incarnation", "last_position", "update")

    def __init__(
        self, created: ConnectionCreated, update: ConnectionUpdate, incarnation: str, last_position: int
    ) -> None:
        self.created = created
        self.update = update
        self.incarnation = incarnation
        self.last_position = last_position

    @property
    def end(self) -> int | None:
        """Position of its last event once it has ended, else None."""
        return self.last_position if self.update.ended else None


Awaited = tuple[Callable[[ConnectionUpdate], bool], asyncio.Future[None]]


class Directory:
    """All connections that are open or retained.

    Args:
        retained: How many ended connections are kept.
        retained_age_s: For how long they are kept.
        now_ms: The clock that tells ages (`Journal.now_ms`).
    """

    def __init__(self, retained: int, retained_age_s: float, now_ms: Callable[[], int]) -> None:
        self.epoch = ""  # of event ids; a log that nodes share tells it with its first message, and may change it
        self.ended_elsewhere: Callable[[int], Entry | None] = lambda connection: None  # of which other nodes tell
        self._retained = retained
        self._retained_age_ms = int(retained_age_s * 1000)
        self._now_ms = now_ms
        self._entries: dict[int, Entry] = {}
        self._census = Census()
        self._named: dict[str, dict[int, None]] = {}  # name → ids that have or had it, the oldest first
        self._awaited: dict[int, list[Awaited]] = {}
        self._ended: OrderedDict[int, int] = OrderedDict()  # id → when it ended, by the clock that tells ages

    def recover(self, epoch: str, connections: list[StoredConnection]) -> None:
        """Take what the journal held."""
        self.epoch = epoch
        for stored in sorted(connections, key=lambda stored: stored.last_position):
            entry = Entry(stored.created, stored.update, stored.incarnation, stored.last_position)
            self._add(entry, stored.last_event_ms)

    def fold(self, committed: Committed) -> None:
        """Take one committed addition."""
        if committed.repeated:
            return
        append, batch = committed.append, committed.batch
        for created in append.created:
            entry = self._entries.get(created.id)
            if entry is not None and entry.update.ended and not append.incarnation:
                self._drop(entry)  # it was given away, lived on at another node, and is back
                entry = None
            if entry is None:
                self._add(Entry(created, ConnectionUpdate(created.id, STATUS_CONNECTING), append.incarnation, 0))
            else:
                if created.worker != entry.created.worker:  # user code shares the process that reports
                    self._census.moved(entry.created.worker, created.worker, entry.update)
                entry.created = created
                entry.incarnation = append.incarnation or entry.incarnation
        last_of = lasts_of(append.connections, committed.first, len(append.updates))
        for update in append.updates:
            if (entry := self._entries.get(update.id)) is None:
                continue
            before = entry.update
            entry.update = update
            if before.messages_out > update.messages_out:
                # Totals of sends may have come ahead of what is committed (`sent`, `figures`): they never go back.
                entry.update = _with_totals(update, before.messages_out, before.bytes_out)
            if batch is not None:
                entry.last_position = last_of(update.id) or entry.last_position
            alike = update.status == before.status and not update.ended and update.kept is None  # a message has come
            if not alike and not before.ended and self._census.changed(entry.created, before, update):
                self._ended[update.id] = self._now_ms()
            if update.id in self._awaited:
                self._look(entry)

    def _drop(self, entry: Entry) -> None:
        connection = entry.created.id
        del self._entries[connection]
        self._ended.pop(connection, None)
        self._forget_name(entry.created)
        self._census.forget([connection])

    def figures(self, update: ConnectionUpdate) -> None:
        """Take figures that changed without an event: what was sent, heartbeats, the round trip. They are not in the journal.

        Nothing else of `update` counts: it may be ahead of what is committed, which alone says how a connection stands.
        """
        entry = self._entries.get(update.id)
        if entry is not None and not entry.update.ended:
            known = _with_totals(entry.update, update.messages_out, update.bytes_out, update.round_trip_us)
            if known.kept is not None and update.kept is not None:
                keep_alives = max(known.kept.keep_alives, update.kept.keep_alives)
                late_replies = max(known.kept.late_replies, update.kept.late_replies)
                kept = msgspec.structs.replace(known.kept, keep_alives=keep_alives, late_replies=late_replies)
                known = msgspec.structs.replace(known, kept=kept)
            entry.update = known

    def sent(self, connection: int, messages_out: int, bytes_out: int) -> None:
        """Take the totals that came with the answer to a send."""
        entry = self._entries.get(connection)
        if entry is not None:
            entry.update = _with_totals(entry.update, messages_out, bytes_out)

    def _add(self, entry: Entry, ended_ms: int = 0) -> None:
        connection = entry.created.id
        self._entries[connection] = entry
        if entry.created.name is not None:
            self._named.setdefault(entry.created.name, {})[connection] = None
        self._census.add(entry.created, entry.update)
        if entry.update.ended:
            self._ended[connection] = ended_ms

    def until(self, connection: int, true: Callable[[ConnectionUpdate], bool]) -> asyncio.Future[None]:
        """Return what ends once `true` is so of what is committed of a connection. For waiting, never to be cancelled.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self.entry(connection)
        future = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(connection, []).append((true, future))
        self._look(entry)
        return future

    def _look(self, entry: Entry) -> None:
        left: list[Awaited] = []
        for true, future in self._awaited.pop(entry.created.id, ()):
            if true(entry.update) or entry.update.ended:  # nothing follows
                future.set_result(None)
            else:
                left.append((true, future))
        if left:
            self._awaited[entry.created.id] = left

    def prune(self) -> list[int]:
        """Forget ended connections that are no longer retained, `LOOKS` of them at most, and return their ids."""
        gone: list[int] = []
        oldest_ms = self._now_ms() - self._retained_age_ms
        while self._ended and len(gone) < LOOKS:
            connection, ended_ms = next(iter(self._ended.items()))
            if len(self._ended) <= self._retained and ended_ms >= oldest_ms:
                break
            del self._ended[connection]
            self._forget_name(self._entries.pop(connection).created)
            gone.append(connection)
        self._census.forget(gone)
        return gone

    def _forget_name(self, created: ConnectionCreated) -> None:
        if created.name is not None:
            named = self._named[created.name]
            named.pop(created.id, None)
            if not named:
                del self._named[created.name]

    def living(self, name: str) -> Entry | None:
        """Return the connection of this name that has not ended; there is one at most."""
        found = (self._entries[connection] for connection in self._named.get(name, ()))
        return next((entry for entry in found if not entry.update.ended), None)

    def ids_of(self, name: str) -> list[int]:
        """Return the connections that have or had this name and are known, the oldest first."""
        return list(self._named.get(name, ()))

    def id_of(self, name: str) -> int:
        """Return which connection a name means: the living one, else the last of that name.

        Raises:
            UnknownConnection: If none had it, or is retained.
        """
        living = self.living(name)
        if living is not None:
            return living.created.id
        if name not in self._named:
            raise UnknownConnection(name)
        return max(self._named[name])

    def entry(self, connection: int, *, here: bool = False) -> Entry:
        """Return what is known of `connection`; `here`: if this service has had it itself.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self._entries.get(connection) or (None if here else self.ended_elsewhere(connection))
        if entry is None:
            raise UnknownConnection(connection)
        return entry

    def url(self, connection: int) -> str | None:
        """Return the URL of a connection; None where nothing is known of it."""
        entry = self._entries.get(connection)
        return None if entry is None else entry.created.url

    @property
    def live_count(self) -> int:
        """How many connections have not ended."""
        return self._census.live_count

    def live_of(self, worker: str) -> list[Entry]:
        """Return the connections of `worker` that have not ended."""
        return [self._entries[connection] for connection in self._census.live_ids(worker)]

    def living_entries(self) -> Iterator[Entry]:
        """Yield the connections that have not ended."""
        return map(self._entries.__getitem__, self._census.all_live_ids())

    def live_count_of(self, worker: str) -> int:
        """How many connections of `worker` have not ended."""
        return self._census.live_count_of(worker)

    @property
    def live_counts(self) -> Counter[tuple[str, str]]:
        """How many connections have not ended, by (worker, status)."""
        return self._census.counts

    def downs(self) -> Iterator[tuple[str, Down]]:
        """Yield of each kept connection that has no ready socket its worker, and what it does to get one."""
        for connection, worker in self._census.downs():
            kept = self._entries[connection].update.kept
            if kept is not None and kept.down is not None:
                yield worker, kept.down

    def down_longer_than(self, seconds: float) -> int:
        """How many kept connections have had no ready socket for longer than that."""
        since_us = now_us() - round(seconds * 1e6)
        return sum(down.since_us <= since_us for _, down in self.downs())

    def workers(self) -> set[str]:
        """Return the names of workers of which a connection is known."""
        return {entry.created.worker for entry in self._entries.values()}

    def select(
        self, worker: str | None, status: str | None, after: int, *, name: str | None = None, ready: bool | None = None
    ) -> tuple[list[Entry], int | None]:
        """Look at the next `LOOKS` connections past id `after`, by id; return those that are wanted, and after which id it goes on
        (None: that was the last one).
        """
        ids = self._census.next_ids(after, LOOKS)
        if name is not None:
            ids = sorted(connection for connection in self._named.get(name, ()) if connection > after)
        found: list[Entry] = []
        for entry in map(self._entries.__getitem__, ids):
            if worker is not None and entry.created.worker != worker:
                continue
            if status is not None and entry.update.status != status:
                continue
            if ready is not None and (entry.update.status == STATUS_CONNECTED) is not ready:
                continue
            found.append(entry)
        return found, ids[-1] if ids and name is None else None

    def record(self, connection: int) -> ConnectionRecord:
        """Return the public record.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        return self.to_record(self.entry(connection))

    def to_record(self, entry: Entry) -> ConnectionRecord:
        """Return the public record of `entry`."""
        last_event_id = f"{self.epoch}-{entry.last_position}" if entry.last_position else None
        return record_of(entry.created, entry.update, last_event_id)


def _with_totals(
    update: ConnectionUpdate, messages_out: int, bytes_out: int, round_trip_us: int | None = None
) -> ConnectionUpdate:
    """Return `update` with these totals of what was sent, or its own if they are later: they only ever grow."""
    return msgspec.structs.replace(
        update,
        messages_out=max(update.messages_out, messages_out),
        bytes_out=max(update.bytes_out, bytes_out),
        round_trip_us=update.round_trip_us if round_trip_us is None else round_trip_us,
    )


async def keep_pruned(directory: Directory, journal: Journal) -> None:
    """Forget, here and in the journal, what is no longer retained. Ends by cancellation.

    While nothing can be written it waits: nothing ends then, either.
    """
    gone: list[int] = []
    while True:
        # Thousands may be due at once: others have their turn in between.
        await asyncio.sleep(0 if len(gone) == LOOKS else PRUNE_INTERVAL_S)
        if gone := directory.prune():
            with contextlib.suppress(JournalUnavailable):  # it writes nothing any more, and has said why
                await journal.forget_connections(gone)
