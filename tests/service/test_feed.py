"""Subscribers, as far as they need no process: what a filter leaves out."""

from __future__ import annotations

from pathlib import Path

from mooring.events import Kind
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.sqlite import SqliteJournal


async def test_a_search_that_finds_nothing_says_so_in_time_and_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", JournalConfig())
    feed = Feed(journal, ring_bytes=1)  # memory holds the last batch alone
    await journal.start(feed.publish, lambda failure: None)
    kinds = bytes((Kind.onMessage,))
    for _ in range(100):
        await journal.append_waiting(Append(worker="w", connections=bytes(8), kinds=kinds, bodies=b"x" * 131_072))
    with feed.subscribe(EventFilter(kinds=frozenset({Kind.onError})), "start", "start") as subscription:
        places = [subscription.cursor]
        while subscription.cursor < feed.last:
            assert await subscription.next(0) == []
            places.append(subscription.cursor)
        assert len(places) > 2, "a heartbeat is due while it still searches"
        assert places == sorted(set(places))
    await journal.stop()
