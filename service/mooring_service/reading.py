"""What is read of connections and events: of this service, or, in a cluster, of all nodes (`everywhere`)."""

from __future__ import annotations

from mooring_service.connections import Connections
from mooring_service.directory import Directory
from mooring_service.feed import Feed, Subscription
from mooring_service.journal.batch import EventFilter
from mooring_service.records import ConnectionRecord


class Reading:
    """What this service alone knows."""

    def __init__(self, connections: Connections, directory: Directory, feed: Feed) -> None:
        self._connections = connections
        self._directory = directory
        self._feed = feed

    def id_of(self, name: str) -> int:
        """Return which connection a name means: the living one, else the last of that name.

        Raises:
            UnknownConnection: If none had it, or is retained.
        """
        return self._connections.id_of(name)

    def record(self, connection: int) -> ConnectionRecord:
        """Return the record of a connection.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        return self._connections.record(connection)

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
        """Return a page of records by id, and where the next page begins (None: there is none). `node`: of that one alone."""
        if node is not None:
            return [], None
        return await self._connections.page(
            worker=worker, status=status, after=after, limit=limit, name=name, ready=ready
        )

    def has_worker(self, worker: str) -> bool:
        """Say whether a connection of a worker is known."""
        return worker in self._directory.workers()

    async def meet(self, cursor: str) -> None:
        """Find out whether somebody who has read more than is shown here was given this cursor: it is no gap then. Nobody has here."""

    def subscribe(self, events: EventFilter, cursor: str | None, *, brief: bool = False) -> Subscription:
        """Return the stream of all that is wanted.

        Raises:
            LimitReached: If there are too many subscribers.
        """
        return self._feed.subscribe(events, cursor, "now", brief=brief)

    def follow(
        self, connection: int, cursor: str | None, kinds: frozenset[int], *, brief: bool = False
    ) -> Subscription:
        """Return the stream of one connection; it ends after its last event.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        return self._connections.follow(connection, cursor, kinds, brief=brief)
