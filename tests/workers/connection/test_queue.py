"""What waits to be sent while a connection is down."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.queue import MAX_MESSAGES, SHOWN_BYTES, Queued, SendQueue, Waiting
from mooring.kept_events import UnsentEvent

ROOM = 4 * 1024 * 1024


def add(queue: SendQueue, *payloads: bytes, now: float = 0, ttl_s: float = 60, binary: bool = False) -> Queued:
    answer = queue.add(payloads, binary=binary, now=now, ttl_s=ttl_s, room_bytes=ROOM)
    assert answer is not None
    return answer


def taken(queue: SendQueue, now: float) -> list[bytes]:
    found = []
    while (one := queue.take(now)) is not None:
        found.append(one.payload)
    return found


def test_messages_are_taken_once_in_order_and_are_numbered_for_the_life_of_the_id() -> None:  # 36
    queue = SendQueue()
    assert add(queue, b"one") == Queued(1, 3, 1, 60)
    assert add(queue, b"two", b"three", now=5) == Queued(2, 8, 2, 65)
    assert (queue.messages, queue.bytes) == (3, 11)
    assert taken(queue, 10) == [b"one", b"two", b"three"]
    assert (queue.messages, queue.bytes, queue.next_expiry) == (0, 0, math.inf)
    assert taken(queue, 10) == []
    assert add(queue, b"four").queue_id == 4
    assert SendQueue(first_id=70_000).add([b""], binary=False, now=0, ttl_s=1, room_bytes=0) == Queued(1, 0, 70_000, 1)


def test_what_is_too_old_is_not_sent_and_told_of_with_its_payload() -> None:  # 36
    queue = SendQueue()
    add(queue, b"a", ttl_s=1)
    add(queue, b"\xff", ttl_s=2, binary=True)
    add(queue, b"late", ttl_s=60)
    assert queue.next_expiry == 1
    assert queue.expire(0.9) is None
    unsent = queue.expire(2)
    assert msgspec.to_builtins(unsent) == {
        "type": "unsent",
        "reason": "expired",
        "count": 2,
        "bytes": 2,
        "messages": [{"queueId": 1, "data": "a"}, {"queueId": 2, "data": "/w==", "encoding": "base64"}],
    }
    assert unsent is not None
    assert unsent.messages[1].data == b"\xff", "a handler is handed bytes"
    assert (queue.messages, queue.bytes, queue.next_expiry) == (1, 4, 60)


def test_the_ttl_is_checked_when_a_message_is_about_to_be_written() -> None:
    queue = SendQueue()
    add(queue, b"old", ttl_s=1)
    add(queue, b"new", ttl_s=10)
    assert queue.take(5) == Waiting(2, b"new", False, 10), "nobody had called expire yet"
    assert queue.next_expiry == -math.inf, "it is to be told of at once"
    unsent = queue.expire(5)
    assert unsent is not None
    assert [one.queue_id for one in unsent.messages] == [1]
    assert queue.expire(5) is None


def test_one_occasion_is_one_event_with_bounded_payloads() -> None:
    queue = SendQueue()
    add(queue, b"x" * (SHOWN_BYTES - 1), b"yy", b"z")
    unsent = queue.give_up("terminated")
    assert unsent is not None
    assert (unsent.reason, unsent.count, unsent.bytes) == ("terminated", 3, SHOWN_BYTES + 2)
    assert [one.queue_id for one in unsent.messages] == [1], "the first ones: none after the one that does not fit"
    assert queue.give_up("dropped") is None
    assert (queue.messages, queue.bytes) == (0, 0)


def test_dropping_also_tells_of_what_had_become_too_old() -> None:
    queue = SendQueue()
    add(queue, b"old", ttl_s=1)
    assert queue.take(5) is None
    add(queue, b"new")
    unsent = queue.give_up("dropped")
    assert unsent is not None
    assert [one.data for one in unsent.messages] == ["old", "new"]


def test_a_request_waits_whole_or_not_at_all() -> None:
    queue = SendQueue()
    assert queue.add([b"abc", b"d"], binary=False, now=0, ttl_s=1, room_bytes=3) is None
    assert (queue.messages, queue.bytes) == (0, 0)
    assert queue.add([b"abc"], binary=False, now=0, ttl_s=1, room_bytes=3) is not None
    assert queue.add([b""], binary=False, now=0, ttl_s=1, room_bytes=2) is None, "the live queue has grown meanwhile"
    assert SendQueue().add([b""] * (MAX_MESSAGES + 1), binary=False, now=0, ttl_s=1, room_bytes=ROOM) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "expire", "drop"]), st.floats(0, 5), st.floats(0.1, 20), st.integers(0, 3)
    ),
    max_size=100,
)


@given(STEPS)
def test_every_message_is_taken_or_told_of_exactly_once(steps: list[tuple[str, float, float, int]]) -> None:
    queue = SendQueue()
    now = 0.0
    expires: dict[int, float] = {}
    sent: list[int] = []
    told: list[int] = []

    def tell(unsent: UnsentEvent | None) -> None:
        if unsent is not None:
            told.extend(one.queue_id for one in unsent.messages)
            assert unsent.count == len(unsent.messages)
            if unsent.reason == "expired":
                assert all(expires[one.queue_id] <= now for one in unsent.messages)

    for what, passed, ttl_s, count in steps:
        now += passed
        if what == "add":
            answer = queue.add([b"p"] * count, binary=False, now=now, ttl_s=ttl_s, room_bytes=ROOM)
            assert answer is not None
            expires.update({answer.queue_id + i: answer.expires_at for i in range(count)})
        elif what == "take":
            if (one := queue.take(now)) is not None:
                assert one.expires_at > now
                sent.append(one.queue_id)
        elif what == "expire":
            tell(queue.expire(now))
            assert queue.next_expiry > now
        else:
            tell(queue.give_up("dropped"))
        assert queue.bytes == queue.messages
    tell(queue.give_up("terminated"))
    assert sent == sorted(sent)
    assert sorted(sent + told) == list(range(1, len(expires) + 1))
