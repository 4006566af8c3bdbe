"""What is known of connections, and for how long."""

from __future__ import annotations

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.directory import Directory
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed, StoredConnection


def created(connection: int) -> ConnectionCreated:
    return ConnectionCreated(connection, "ws://x/", "main", None, "text", [], 1, True, 10.0, 5.0)


def ended(connection: int) -> ConnectionUpdate:
    return ConnectionUpdate(connection, "Closed", 2, ended=True)


def test_a_connection_that_has_ended_is_kept_for_its_time_over_a_restart() -> None:
    now = 1_000_000
    directory = Directory(1_000, 60.0, lambda: now)
    directory.recover(
        "e", [StoredConnection(created(n), ended(n), "i", n, now - age_ms) for n, age_ms in ((1, 61_000), (2, 50_000))]
    )
    assert directory.prune() == [1], "its age did not begin anew"
    now += 10_000
    assert directory.prune() == []
    now += 1
    assert directory.prune() == [2]


def test_it_is_the_journals_clock_that_counts() -> None:
    now = 1_000_000
    directory = Directory(1_000, 60.0, lambda: now)
    directory.fold(Committed(Append(created=[created(1)], updates=[ConnectionUpdate(1, "Connected", 1)]), None))
    directory.fold(Committed(Append(updates=[ended(1)]), None))
    now += 60_000
    assert directory.prune() == []
    now += 1
    assert directory.prune() == [1]
