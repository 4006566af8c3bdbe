"""What is read of connections and events at every node of a cluster: the own ones as they are here, all others as the log tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import merge
from typing import Any

import msgspec

from mooring.errors import UnknownConnection
from mooring_service.connections import Connections
from mooring_service.directory import Directory, Entry
from mooring_service.feed import Feed, Subscription
from mooring_service.journal.batch import EventFilter
from mooring_service.reading import Reading
from mooring_service.records import ConnectionRecord


class Everywhere(Reading):
    """What all nodes know.

    Args:
        claimed: Says whether any node has a worker; `holds`: whether this one does.
        node_of: Returns at which node the connection of a worker is, given both.
        reach: Returns up to which position the log goes, given a cursor and up to where that is known; see `barriers.reach_of`.
    """

    def __init__(
        self,
        connections: Connections,
        directory: Directory,
        of_all: Directory,
        feed: Feed,
        claimed: Callable[[str], bool],
        holds: Callable[[str], bool],
        node_of: Callable[[str, int], str],
        reach: Callable[[str, int], Awaitable[int]],
    ) -> None:
        super().__init__(connections, directory, feed)
        self._of_all = of_all
        self._claimed, self._holds, self._node_of, self._reach = claimed, holds, node_of, reach

    def id_of(self, name: str) -> int:
        """Return which connection a name means: the own ones first."""
        try:
            return self._connections.id_of(name)
        except UnknownConnection:
            return self._of_all.id_of(name)

    def _is_own(self, connection: int) -> bool:
        """Say whether what is known here of a connection is the truth: what this node has given away lives on elsewhere."""
        try:
            return self._holds(self._directory.entry(connection, here=True).created.worker)
        except UnknownConnection:
            return False

    def record(self, connection: int) -> ConnectionRecord:
        """Return the record of a connection; `last_event_id` is that of the log."""
        if self._is_own(connection):
            return self._of_here(self._connections.record(connection))
        try:
            return self._of_there(self._of_all.entry(connection))
        except UnknownConnection:  # it may be retained for longer here
            return self._of_here(self._connections.record(connection))

    def _of_here(self, record: ConnectionRecord) -> ConnectionRecord:
        try:
            last_event_id = self._of_all.record(record.id).last_event_id
        except UnknownConnection:  # it is not in the log yet
            last_event_id = None
        return msgspec.structs.replace(
            record, last_event_id=last_event_id, node=self._node_of(record.worker, record.id)
        )

    def _of_there(self, entry: Entry) -> ConnectionRecord:
        created = entry.created
        return msgspec.structs.replace(self._of_all.to_record(entry), node=self._node_of(created.worker, created.id))

    async def page(
        self,
        *,
        worker: str | None,
        status: str | None,
        after: int,
        limit: int,
        name: str | None = None,
        ready: bool | None = None,
        node: str | None = None,
    ) -> tuple[list[ConnectionRecord], int | None]:
        """Return a page of records of all nodes by id."""
        asked: dict[str, Any] = {"worker": worker, "status": status, "after": after, "name": name, "ready": ready}
        own: list[ConnectionRecord] = []
        following: int | None = after
        while following is not None and len(own) < limit:
            records, following = await self._connections.page(limit=limit, **{**asked, "after": following})
            here = [self._of_here(record) for record in records if self._is_own(record.id)]
            own += [record for record in here if node in (None, record.node)]
        theirs: list[ConnectionRecord] = []
        begin: int | None = after
        while begin is not None and len(theirs) <= limit:
            entries, begin = self._of_all.select(worker, status, begin, name=name, ready=ready)
            others = [self._of_there(entry) for entry in entries if not self._is_own(entry.created.id)]
            theirs += [record for record in others if node in (None, record.node)]
            await asyncio.sleep(0)  # thousands may be looked at in vain
        found: list[ConnectionRecord] = []
        for record in merge(own, theirs, key=lambda record: record.id):
            if len(found) == limit:
                return found, found[-1].id
            found.append(record)
        return found, following

    async def meet(self, cursor: str) -> None:
        """Find out whether another node has given out a cursor that is ahead of what is shown here.

        Raises:
            EngineDown: If nothing of the log was read here yet.
        """
        feed = self._feed
        feed.reach = max(feed.reach, await self._reach(cursor, max(feed.last, feed.reach)))

    def has_worker(self, worker: str) -> bool:
        """Say whether a worker, or a connection of it, is known at any node."""
        return self._claimed(worker) or worker in self._of_all.workers()

    def follow(
        self, connection: int, cursor: str | None, kinds: frozenset[int], *, brief: bool = False
    ) -> Subscription:
        """Return the stream of one connection, as it is in the log."""
        entry = self._of_all.entry(connection)
        events = EventFilter(connections=frozenset((connection,)), kinds=kinds)
        return self._feed.subscribe(events, cursor, "start", brief=brief, end_of=lambda: entry.end)
