"""What a node has folded, for one that the log has outrun: cut and joined, taken over by a journal, and told to streams as a gap."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mooring.events import Kind
from mooring.link.record import STATUS_CLOSED, STATUS_CONNECTED, ConnectionCreated, ConnectionUpdate
from mooring_service.cluster.claims import Holder
from mooring_service.cluster.copy import PIECE_BYTES, Copy, additions_of, joined, pieces_of
from mooring_service.cluster.fold import Fold, NodeState
from mooring_service.config import JournalConfig
from mooring_service.feed import Feed, Gap, Selection
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.folded import FoldedCopy, KeyChange
from mooring_service.journal.journal import StoredAnswer
from mooring_service.journal.sparse import SparseJournal

HELD = msgspec.msgpack.encode(Holder("b", "2"))
ROWS = [
    ("epoch", "", b"e1"),
    ("node", "b", msgspec.msgpack.encode(NodeState("b", "2", head=90, slot=2))),
    ("over", "a 1", b"5"),
    ("slot", "2", b"b"),
    ("worker", "main-a", HELD),
]
ANSWER = StoredAnswer("k", b"fingerprint", 7, b"201")
COPY = FoldedCopy(90, ROWS, [ANSWER])


def connection(
    number: int, *, ended: bool = False, worker: str = "main-a"
) -> tuple[ConnectionCreated, ConnectionUpdate]:
    created = ConnectionCreated(number, "ws://h/", worker, None, "text", [], 1, spec=b"s" * 1000)
    return created, ConnectionUpdate(number, STATUS_CLOSED if ended else STATUS_CONNECTED, seq=3, ended=ended)


def events(at: int, *numbers: int) -> Append:
    ids = b"".join(number.to_bytes(8, "little") for number in numbers)
    bodies = b"\n".join(b"{}" for _ in numbers)
    return Append(worker="main-a", connections=ids, kinds=bytes([Kind.onMessage] * len(numbers)), bodies=bodies, at=at)


def test_a_copy_goes_in_pieces_that_the_engine_takes_and_is_whole_again() -> None:
    copy = Copy(COPY, [connection(number) for number in range(1, 2_001)])
    pieces = pieces_of(copy)
    assert len(pieces) > 1 and max(map(len, pieces)) <= PIECE_BYTES
    assert joined(pieces) == copy
    with pytest.raises(msgspec.MsgspecError):
        joined(pieces[:-1])


def test_what_the_copy_does_not_know_any_more_has_ended_and_all_else_is_as_it_is_there() -> None:
    there = [connection(1), connection(2, ended=True), connection(3, worker="w")]
    found = additions_of(Copy(COPY, there), [connection(1, ended=True), connection(7), connection(8, ended=True)])
    assert all(append.wrong is None for append in found)
    updates = {update.id: update.ended for append in found for update in append.updates}
    assert updates == {1: False, 2: True, 3: False, 7: True}


def test_a_fold_that_takes_a_copy_holds_what_the_copy_says_and_nothing_else() -> None:
    mine = FoldedCopy(8, [("worker", "main-a", msgspec.msgpack.encode(Holder("a", "1"))), ("slot", "9", b"z")], [])
    fold = Fold(mine.folded)
    fold.recover(COPY.folded)
    assert (fold.applied, fold.epoch, fold.claims.slots) == (90, "e1", {2: "b"})
    assert fold.claims.workers["main-a"].node == "b" and fold.claims.is_over("a", "1")
    assert fold.living("b", "2") is not None and fold.living("b", "1") is None


async def test_a_hole_is_one_gap_for_who_has_read_before_it_and_stands_after_a_restart(tmp_path: Path) -> None:
    journal = SparseJournal(tmp_path / "cluster.db", JournalConfig(max_events=1 << 60))
    feed = Feed(journal)
    await journal.start(feed.publish, lambda failure: None)
    await journal.fold([events(1_000_000, 1, 1)], 1, {("worker", "old"): HELD}, [KeyChange("gone", b"f", 1)])
    resumed = feed.subscribe(EventFilter(), None, "start")
    live = feed.subscribe(EventFilter(), None, "now")
    await journal.cross((1_999_999, 90_999_999), additions_of(Copy(COPY, [connection(1)]), []), 90, COPY)
    assert await live.take_more() == [], "nothing lies behind it yet"
    await journal.fold([events(91_000_000, 1)], 91, {})
    kinds = [type(one) for _ in range(3) for one in await resumed.take_more()]
    assert kinds == [Selection, Gap, Selection]
    assert [type(one) for _ in range(2) for one in await live.take_more()] == [Gap, Selection]
    assert await journal.find_key("k") == ANSWER and await journal.find_key("gone") is None
    assert (await journal.copy_folded()).rows == sorted(ROWS)
    await journal.stop()

    again = SparseJournal(tmp_path / "cluster.db", JournalConfig(max_events=1 << 60))
    recovered = await again.start(lambda committed: None, lambda failure: None)
    assert again.holes == [(1_999_999, 90_999_999)]
    assert Fold(again.folded).claims.workers["main-a"].node == "b" and again.folded.applied == 91
    assert [stored.created.id for stored in recovered.connections] == [1]
    resumed = Feed(again).subscribe(EventFilter(), None, "start")
    kinds = [type(one) for _ in range(3) for one in await resumed.take_more()]
    assert kinds == [Selection, Gap, Selection]
    await again.stop()
