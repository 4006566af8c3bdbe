"""What one commit adds: batches, positions, numbers; decided without I/O."""

from __future__ import annotations

import logging

import pytest

from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, BatchBuilder, EventFilter, lasts_of
from mooring_service.journal.changes import Changes, decode_changes, encode_changes
from mooring_service.journal.group import GROUP_BYTES, Group
from tests.service.journal.test_journal import run_of


def group(next_position: int = 1, **stored: int) -> Group:
    return Group(next_position, 1, 1_000, stored)


def test_small_additions_of_many_workers_are_one_batch_and_each_knows_its_place() -> None:
    of = group(11)
    for name in ("a", "b", "a", "c"):
        of.add(run_of(ord(name), 2, worker=name))
    done = of.close()
    (batch,) = of.batches
    assert (batch.first, batch.last, of.next_position) == (11, 18, 19)
    assert [item.first for item in done] == [11, 13, 15, 17] and {item.batch for item in done} == {batch}
    assert EventFilter(workers=frozenset("a")).select(batch, 0) == [0, 1, 4, 5]
    assert EventFilter(workers=frozenset("x")).select(batch, 0) == []
    assert [batch.last_of(ord(name)) for name in "abc"] == [16, 14, 18]
    for asked in (1, 1_000):
        last_of = lasts_of(batch.connections.tobytes(), batch.first, asked)
        assert [last_of(ord(name)) for name in "abcx"] == [16, 14, 18, 0]


def test_a_batch_grows_to_its_bound_and_a_large_addition_is_one_of_its_own() -> None:
    of = group()
    for size in (10, GROUP_BYTES, 10, 10):
        of.add(run_of(1, 1, size=size))
    of.close()
    assert [len(batch.kinds) for batch in of.batches] == [1, 1, 2]
    assert [batch.first for batch in of.batches] == [1, 2, 3]


def test_an_event_names_its_worker_by_a_byte_so_more_workers_make_a_batch_more() -> None:
    of = group()
    for number in range(BatchBuilder.MAX_WORKERS + 1):
        of.add(run_of(number + 1, 1, worker=f"w{number}"))
    of.close()
    assert [len(batch.kinds) for batch in of.batches] == [BatchBuilder.MAX_WORKERS, 1]
    assert EventFilter(workers=frozenset({"w255"})).select(of.batches[0], 0) == [255]


def test_what_is_repeated_adds_nothing_also_within_one_commit(caplog: pytest.LogCaptureFixture) -> None:
    of = group(a=3)
    for number in (3, 4, 4, 5):
        of.add(run_of(1, 1, incarnation="a", number=number))
    done = of.close()
    assert [item.repeated for item in done] == [True, False, True, False]
    assert of.changes.numbers == {"a": 5} and of.next_position == 3 and not caplog.records
    with caplog.at_level(logging.ERROR):
        after = group(a=3)
        after.add(run_of(1, 1, incarnation="a", number=6))
    assert "skipped from frame 3 to 6" in caplog.text


def test_asks_get_numbers_in_order_and_an_addition_without_events_has_no_batch() -> None:
    of = group()
    of.add(Append(worker="a", asks=[b"1", b"2"]))
    of.add(run_of(1, 1))
    of.add(Append(worker="a", asks=[b"3"], asks_done=[1]))
    done = of.close()
    assert [item.first_ask for item in done] == [1, 0, 3] and of.next_ask == 4
    assert [item.batch is not None for item in done] == [False, True, False]
    assert [(number, ask) for number, _, ask in of.asks] == [(1, b"1"), (2, b"2"), (3, b"3")] and of.asks_done == [1]


def test_columns_that_do_not_fit_leave_the_group_as_it_was() -> None:
    of = group()
    with pytest.raises(ValueError, match="3 bytes of connections for 1 events"):
        of.add(Append(worker="w", connections=b"123", kinds=b"\x02", bodies=b"x"))
    assert of.close() == [] and of.batches == [] and not of.changes


def test_changes_folded_piece_by_piece_are_those_folded_at_once_and_pass_through_a_row() -> None:
    created = ConnectionCreated(7, "ws://x/", "w", None, "text", [], 1)
    additions = [
        (Append(incarnation="i", created=[created], updates=[ConnectionUpdate(7, "Connecting")]), 1),
        (run_of(7, 2, incarnation="i", number=1), 1),
        (Append(incarnation="i", number=2, updates=[ConnectionUpdate(7, "Connected", 1)], connections=bytes(8)), 3),
        (Append(updates=[ConnectionUpdate(7, "Closed", 2, ended=True)], ended="i"), 4),
    ]
    at_once, in_pieces = Changes({}, {}, {}, []), Changes({}, {}, {}, [])
    for append, first in additions:
        at_once.add(append, first)
        piece = Changes({}, {}, {}, [])
        piece.add(append, first)
        in_pieces.merge(decode_changes(encode_changes(piece)))
    assert in_pieces == at_once
    assert at_once.created[7] == (created, "i") and at_once.numbers == {"i": 2} and at_once.ended == ["i"]
    at_once.forget(7)
    assert len(at_once) == 2
