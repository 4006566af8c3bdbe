"""Subscribers, as far as they need no process: what a filter leaves out."""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.sqlite import SqliteJournal


async def test_a_search_that_finds_nothing_says_so_in_time_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, JournalConfig())
    await journal.start(lambda committed: None, lambda failure: None)
    kinds = bytes((Kind.onMessage,))
    for _ in range(100):
        await journal.append_waiting(Append(worker="w", connections=bytes(8), kinds=kinds, bodies=b"x" * 131_072))
    await journal.stop()
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        # As if the first schema had written it: there is no index of kinds.
        connection.execute("DELETE FROM segments").fetchall()
        connection.execute("INSERT INTO segments VALUES (100, 0)").fetchall()
    journal = SqliteJournal(path, JournalConfig())
    feed = Feed(journal)
    await journal.start(feed.publish, lambda failure: None)
    with feed.subscribe(EventFilter(kinds=frozenset({Kind.onError})), "start", "start") as subscription:
        places = [subscription.cursor]
        while subscription.cursor < feed.last:
            assert await subscription.next(0) == []
            places.append(subscription.cursor)
        assert len(places) > 2, "a heartbeat is due while it still searches"
        assert places == sorted(set(places))
    await journal.stop()
