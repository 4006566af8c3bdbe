"""Messages, positions, lives and claims: decisions without an engine."""

from __future__ import annotations

import msgspec
import pytest

from mooring.events import Kind
from mooring.link.record import ConnectionUpdate
from mooring_service.cluster import message as wire
from mooring_service.cluster.claims import CLEARED, KEPT_LIVES, KEY_AGE_MS, Claims
from mooring_service.cluster.fold import Fold, NodeState
from mooring_service.cluster.lives import Judge, Mark, Standing, Timers, fenced, ranked
from mooring_service.cluster.message import Message, TooNew, Unreadable
from mooring_service.cluster.position import MAX_SLOT, STEP, Epoch, connection_id, position_of, resume, seq_of, slot_of
from mooring_service.cluster.replicator import Head, Identity, Start, forgets, start
from mooring_service.journal.addition import encode_addition
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.folded import Folded

TIMERS = Timers(dead_after_s=15.0, fit_s=6.0, fence_s=10.0)


def append(**more: object) -> Append:
    values = {
        "worker": "main",
        "connections": (7).to_bytes(8, "little"),
        "kinds": bytes((Kind.onOpen,)),
        "bodies": b"{}",
    }
    return Append(**{**values, **more})  # type: ignore[arg-type]


def made(
    kind: str = wire.ADD, life: str = "l", seq: int = 0, last: int = 0, run: bytes = b"rrrr", **more: object
) -> Message:
    return Message(wire.VERSION, kind, "a", life, run + b"nnnn", seq, "e", last=last, **more)  # type: ignore[arg-type]


def test_an_addition_comes_out_of_a_message_as_it_was_committed() -> None:
    committed = append(
        updates=[ConnectionUpdate(7, "Connected")], claims=[Claim("worker", "w", ""), Claim("key", "k", (b"f", 5))]
    )
    body = encode_addition(committed)
    assert body is not None
    message = wire.decode(wire.encode(made(additions=[msgspec.Raw(body)])))
    (addition,) = wire.additions(message.additions)
    assert addition.append(at=3 * STEP) == msgspec.structs.replace(committed, at=3 * STEP)
    assert addition.claims == committed.claims


def test_what_concerns_its_own_service_alone_is_not_published() -> None:
    assert encode_addition(Append(worker="main", asks_done=[1])) is None


def test_pieces_of_a_large_addition_join_to_it() -> None:
    body = bytes(range(256)) * 5_000
    pieces = wire.cut(body)
    assert max(map(len, pieces)) == wire.PART_BYTES
    messages = [wire.decode(wire.encode(made(wire.PART, additions=[wire.piece(one)]))) for one in pieces]
    assert b"".join(map(wire.piece_of, messages)) == body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"hello",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode({"a": 1}),
        msgspec.msgpack.encode(["x", "add"]),
    ],
)
def test_a_strangers_or_damaged_bytes_are_told_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Unreadable):
        wire.decode(data)


def test_a_message_of_a_later_version_must_not_be_skipped() -> None:
    with pytest.raises(TooNew, match="start a later one"):
        wire.decode(msgspec.msgpack.encode([wire.VERSION + 1, {"all": "different"}]))


def test_a_message_with_new_fields_at_its_end_is_read() -> None:
    assert wire.decode(msgspec.msgpack.encode([*msgspec.msgpack.decode(wire.encode(made())), "new"])) == made()


def test_an_addition_that_could_never_be_shown_is_damage() -> None:
    body = encode_addition(append(bodies=b"{}\n{}"))
    assert body is not None
    with pytest.raises(Unreadable, match="2 bodies for 1 events"):
        wire.additions([body])


def test_positions_and_ids_come_apart_as_they_were_put_together() -> None:
    assert seq_of(position_of(12, 345)) == 12
    assert slot_of(connection_id(3, 9)) == 3
    assert connection_id(MAX_SLOT, 10**12 - 1) < 2**53


EPOCHS = {"c": Epoch("c", "b", 50), "b": Epoch("b", "a", 100), "a": Epoch("a")}


@pytest.mark.parametrize(
    ("epoch", "position", "wanted"),
    [
        ("c", position_of(70, 3), (position_of(70, 3), False)),
        ("b", position_of(50, 9), (position_of(50, 9), False)),
        ("b", position_of(51), (position_of(51) - 1, True)),
        ("a", position_of(60), (position_of(51) - 1, True)),
        ("a", position_of(10), (position_of(10), False)),
        ("z", position_of(1), (0, True)),
    ],
)
def test_a_cursor_of_an_ancestor_goes_on_where_the_histories_part(
    epoch: str, position: int, wanted: tuple[int, bool]
) -> None:
    assert resume(EPOCHS, "c", epoch, position) == wanted


def test_a_peer_is_dead_after_its_time_and_the_judges_take_turns() -> None:
    judges = {name: Judge(name, TIMERS, 0.0) for name in "bcd"}
    for judge in judges.values():
        for name in "abcd":
            judge.heard(name, name, 0.0)
        judge.look(0.0, 0.0, 0.0)
    order = ranked("a", set("bcd"))
    for now in (5.0, 10.0, 14.9, 15.5, 16.5, 17.5):
        for judge in judges.values():
            for name in "bcd":
                judge.heard(name, name, now)
            judge.look(now, now, now)
        wanted = [name for at, name in enumerate(order) if now > 15 + at]
        assert sorted(name for name in judges if judges[name].verdicts(now)) == sorted(wanted)


def test_nobody_is_dead_while_the_judge_is_not_fit_and_timers_begin_again() -> None:
    judge = Judge("b", TIMERS, 0.0)
    judge.heard("a", "x", 0.0)
    judge.look(1.0, 1.0, 1.0)
    judge.look(20.0, 1.0, 1.0)
    assert judge.verdicts(30.0) == []
    for now in (26.0, 31.0, 36.0, 41.0, 45.0):
        judge.look(now, now if now > 30 else 1.0, now)
        assert judge.standing("a", now) is Standing.SUSPECT
        assert judge.verdicts(now) == []
    judge.look(46.5, 46.5, 46.5)
    assert [peer.node for peer in judge.verdicts(46.5)] == ["a"]
    judge.ended("a", "x", Standing.LEFT, 47.0)
    assert judge.verdicts(99.0) == []
    judge.heard("a", "y", 50.0)
    assert judge.standing("a", 50.0) is Standing.LIVE


def test_a_judge_that_stood_still_begins_its_timers_again_whatever_is_acknowledged_first() -> None:
    judge = Judge("b", TIMERS, 0.0)
    judge.heard("a", "x", 0.0)
    judge.look(1.0, 1.0, 1.0)
    judge.look(100.0, 99.9, 99.9)
    assert judge.verdicts(100.0) == [], "it has heard nobody, and could not"
    for now in (105.0, 110.0, 115.0):
        judge.look(now, now, now)
        assert judge.verdicts(now) == []
    judge.look(120.5, 120.5, 120.5)
    assert [peer.node for peer in judge.verdicts(120.5)] == ["a"]


def test_a_tail_is_fresh_by_what_has_come_by_not_by_having_reached_the_end() -> None:
    mark = Mark(0.0)
    mark.look(1.0, acked_seq=10, applied=5)
    for now in range(2, 12):
        mark.look(float(now), acked_seq=10 * now, applied=10 * now - 5)
    assert mark.fresh_at >= 8.0
    assert fenced(20.1, 10.0, TIMERS)
    assert not fenced(20.0, 10.0, TIMERS)


def test_the_first_claim_in_the_log_has_a_worker_until_its_life_is_over() -> None:
    claims = Claims()
    assert claims.claim(Claim("worker", "w", ""), "a", "a1")
    assert claims.claim(Claim("worker", "w", ""), "a", "a1")
    assert not claims.claim(Claim("worker", "w", ""), "b", "b1")
    assert not claims.claim(Claim("worker", "w", None), "b", "b1")
    claims.over("a", "a1")
    assert claims.claim(Claim("worker", "w", ""), "b", "b1")
    assert not claims.claim(Claim("worker", "w", ""), "c", "c1")
    assert claims.workers["w"].inherited
    assert claims.claim(Claim("worker", "w", None), "b", "b1")
    assert claims.claim(Claim("worker", "w", ""), "c", "c1")


def test_a_name_outlives_its_nodes_life_and_is_free_with_its_connections_end() -> None:
    claims = Claims()
    assert claims.claim(Claim("name", "n", 0), "a", "a1")
    assert claims.claim(Claim("name", "n", 5), "a", "a1")
    assert not claims.claim(Claim("name", "n", 0), "a", "a1")
    claims.over("a", "a1")
    assert not claims.claim(Claim("name", "n", 0), "b", "b1")
    claims.ended(5)
    assert claims.claim(Claim("name", "n", 0), "b", "b1")
    claims.over("b", "b1")
    assert claims.claim(Claim("name", "n", 0), "c", "c1"), "nothing was made of it"


def test_a_key_is_free_with_its_life_and_after_a_day() -> None:
    claims = Claims()
    assert claims.claim(Claim("key", "k", (b"f", 1_000)), "a", "a1")
    assert not claims.claim(Claim("key", "k", (b"f", 2_000)), "b", "b1")
    assert claims.claim(Claim("key", "k", (b"g", 1_000 + KEY_AGE_MS)), "b", "b1")
    claims.over("b", "b1")
    assert claims.claim(Claim("key", "k", (b"h", 1_001 + KEY_AGE_MS)), "c", "c1")


def test_a_worker_whose_nodes_have_died_is_started_again_by_its_holder_alone() -> None:
    claims = Claims()
    claims.claim(Claim("worker", "w", ""), "a", "1")
    for number, (dead, heir) in enumerate(["ab", "bc", "cd"], 1):
        claims.over(dead, "1", number * 1_000)
        assert claims.claim(Claim("worker", "w", ""), heir, "1")
    assert claims.workers["w"].lost_us == [1_000, 2_000, 3_000]
    assert not claims.claim(Claim("worker", "w", CLEARED), "a", "1")
    assert claims.workers["w"].lost_us == [1_000, 2_000, 3_000]
    assert claims.claim(Claim("worker", "w", CLEARED), "d", "1")
    assert (claims.workers["w"].node, claims.workers["w"].lost_us) == ("d", [])


def test_of_lives_that_ended_long_ago_those_that_hold_something_are_remembered_at_each_node_alike() -> None:
    begun = Folded(0, {})
    values: dict[tuple[str, str], bytes] = {}
    steady, restarted = Fold(begun), Fold(begun)

    def take(seq: int, message: Message) -> None:
        nonlocal restarted
        for fold in (steady, restarted):
            found = fold.take(seq, f"mooring.c.log.{message.node}", wire.encode(message), 1)
        for key, value in found.changes.items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        if seq % 7 == 0:
            restarted = Fold(Folded(seq, dict(values)))

    seq = 0
    for life in range(10 * KEPT_LIVES):
        holds = [("worker", "w", ""), ("name", "n", 5)] if life == 3 else [("key", "k", (b"f", 5))] if life == 4 else []
        body = encode_addition(append(claims=[Claim(*one) for one in holds]))
        assert body is not None
        take(seq + 1, made(life=f"{life:x}", seq=seq, last=1, additions=[msgspec.Raw(body)]))
        seq += 1
        known = [one for one in range(life) if steady.claims.is_over("a", f"{one:x}")]
        assert known == [one for one in range(life) if restarted.claims.is_over("a", f"{one:x}")]
        assert known[-KEPT_LIVES:] == [*range(life)][-KEPT_LIVES:] and len(known) < 2 * KEPT_LIVES + 2
        assert {3, 4} & {*range(life)} <= {*known}
    assert {key for kind, key in values if kind == "over"} == {f"a {one:x}" for one in known}
    other = Message(wire.VERSION, wire.ADD, "b", "l", b"rrrrnnnn", 0, "e", last=1)
    body = encode_addition(append(claims=[Claim("worker", "w", "")]))
    assert body is not None
    take(seq + 1, msgspec.structs.replace(other, additions=[msgspec.Raw(body)]))
    assert (steady.claims.workers["w"].node, restarted.claims.workers["w"].node) == ("b", "b")


def test_a_slot_is_its_nodes_for_ever() -> None:
    claims = Claims()
    assert claims.slot("a", claims.next_slot)
    assert not claims.slot("b", 1)
    assert claims.slot("b", claims.next_slot)
    assert claims.slot("a", 1)
    assert not claims.slot("c", 0)
    assert not claims.slot("c", MAX_SLOT + 1)
    assert not claims.claim(Claim("planet", "x", ""), "a", "a1")


ME = Identity("a", "l", b"rrrr", frozenset({b"rrrr"}))


@pytest.mark.parametrize(
    ("head", "journal_last", "published", "wanted"),
    [
        (None, 0, False, Start.CONTINUE),
        (None, 9, True, Start.FORGOTTEN),
        (Head(4, made(last=5)), 9, True, Start.CONTINUE),
        (Head(4, made(last=10)), 9, True, Start.BEHIND),
        (Head(4, made(last=5, run=b"????")), 9, True, Start.OTHER),
        (Head(4, made(life="other")), 9, True, Start.OTHER),
        (Head(4, made(wire.LOST)), 9, True, Start.NEW_LIFE),
        (Head(4, made(wire.LOST, life="other")), 9, False, Start.CONTINUE),
        (Head(4, made(wire.LOST, life="other")), 9, True, Start.NEW_LIFE),
    ],
)
def test_how_a_service_begins_is_what_its_chain_and_its_journal_say(
    head: Head | None, journal_last: int, published: bool, wanted: Start
) -> None:
    assert start(ME, journal_last, published, head) is wanted


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (Head(4, made(wire.LOST, last=9)), False),
        (Head(4, made(wire.LOST, last=10)), True),
        (Head(4, made(wire.LOST, last=5, life="a later one")), True),
        (None, False),
    ],
)
def test_a_journal_that_lacks_what_its_chain_has_borne_does_not_know_which_ids_it_has_given_out(
    head: Head | None, wanted: bool
) -> None:
    assert forgets(ME, 9, head) is wanted


def test_a_seventeenth_node_is_refused_and_one_that_is_over_does_not_count() -> None:
    fold = Fold(Folded(0, {}))
    fold.nodes = {f"n{number}": NodeState(f"n{number}", life="l") for number in range(16)}
    assert fold.unlike("n3", 15) is None
    assert fold.unlike("new", 15) == "16 nodes of this cluster live, and 16 are the most: have several clusters"
    fold.nodes["n0"].over = "Dead"
    assert fold.unlike("new", 15) is None
