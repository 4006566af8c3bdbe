"""When the next commit is due: who waits for an answer is not kept waiting, and what comes scattered is committed together."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from mooring_service.journal.pace import GROUP_S, LARGE_BYTES, PATIENCE, SELDOM, Following, Pace

COMMIT_S = 0.0003


def commits(pace: Pace, arrivals: Iterator[float], until_s: float) -> list[tuple[float, int]]:
    """Let additions of 200 bytes arrive at these times; return when each commit has begun, with how many of them."""
    done: list[tuple[float, int]] = []
    now = 0.0
    arrival = next(arrivals)
    while now < until_s:
        begun = max(arrival, pace.due_s(200), now)
        count, last = 0, arrival
        while arrival <= begun:
            count, last = count + 1, arrival
            arrival = next(arrivals)
        done.append((begun, count))
        pace.committed(begun, count, last)
        now = begun + COMMIT_S
    return done


def poisson(rate: float, seed: int) -> Iterator[float]:
    chosen = random.Random(seed)
    at = 0.0
    while True:
        at += chosen.expovariate(rate)
        yield at


def test_scattered_additions_under_load_share_commits_two_milliseconds_apart() -> None:
    done = commits(Pace(), poisson(5_000, seed=1), 5)
    per_second = len(done) / 5
    assert per_second < 1.2 / GROUP_S, "one commit in two milliseconds, now and then one more"
    assert sum(count for _, count in done) / len(done) > 8


def test_what_comes_after_quiet_is_committed_at_once() -> None:
    pace = Pace()
    for at in range(1, 1_000):
        assert pace.due_s(200) <= at, "nobody waits"
        pace.committed(float(at), 1, float(at))


def test_who_waits_for_each_answer_before_the_next_message_is_not_slowed_down() -> None:
    pace = Pace()
    now = waited = 0.0
    for _ in range(10_000):
        begun = max(now, pace.due_s(200))
        waited += begun - now
        pace.committed(begun, 1, now)
        now = begun + COMMIT_S  # the next is an answer to this one
    assert waited == 0.0


def test_waits_that_bring_nothing_end_and_are_tried_again_ever_less_often() -> None:
    pace = Pace()
    now = 0.0
    waits = 0
    for _ in range(20_000):  # two at a time, each time as an answer: waiting brings nothing more
        begun = max(now, pace.due_s(400))
        waits += begun > now
        pace.committed(begun, 2, now)
        now = begun + COMMIT_S
    assert waits <= 12 * (PATIENCE + 1) + 20_000 / SELDOM


def test_what_is_large_does_not_wait() -> None:
    pace = Pace()
    for at in range(10):  # load
        pace.committed(at * GROUP_S, 3, (at - 0.3) * GROUP_S)
    begun = 9 * GROUP_S
    assert pace.due_s(LARGE_BYTES - 1) == begun + GROUP_S
    assert pace.due_s(LARGE_BYTES) == -math.inf


def test_a_request_that_is_answered_once_it_is_stored_waits_for_nothing_under_load() -> None:
    pace = Pace()
    for at in range(10):  # load
        pace.committed(at * GROUP_S, 3, (at - 0.3) * GROUP_S)
    begun = 9 * GROUP_S
    assert pace.due_s(200) == begun + GROUP_S
    assert pace.due_s(200, awaited=True) == -math.inf
    assert pace.due_s(200, begun, awaited=True) == -math.inf, "nor for what is known to follow"
    pace.committed(begun + GROUP_S, 3, begun + GROUP_S / 2)
    assert pace.due_s(200) == begun + GROUP_S + GROUP_S, "all others keep to the pace"


def test_the_last_of_what_is_known_to_follow_is_told_and_all_of_it_came_together() -> None:
    following = Following()
    assert not following.queued(1.0, more=True, first=True)
    assert not following.queued(2.0, more=True, first=False)
    assert following.since_s == 1.0, "the first is not kept waiting by the second"
    assert following.queued(3.0, more=False, first=False)
    assert following.since_s == -math.inf
    assert following.taken()
    assert not following.taken(), "once"


def test_what_a_request_waits_for_is_awaited_until_it_is_taken() -> None:
    following = Following()
    following.queued(1.0, more=False, first=True)
    following.awaited = True
    following.queued(2.0, more=True, first=False)
    assert following.awaited, "whatever is queued behind it"
    following.taken()
    assert not following.awaited


def test_what_nobody_knew_to_follow_came_by_itself() -> None:
    following = Following()
    assert not following.queued(1.0, more=False, first=True)
    assert not following.queued(2.0, more=True, first=False), "what waits already waits for nobody"
    assert following.since_s == -math.inf
    assert not following.taken()
    assert not following.queued(3.0, more=True, first=True)
    assert not following.taken(), "nobody has followed in time"
    assert not following.queued(4.0, more=False, first=True)
