"""When a kept connection dials again: the figures of the policy."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.keep import (
    MAX_RETRY_AFTER_S,
    Ended,
    Fate,
    Keeper,
    Redial,
    Stop,
    fate,
)
from mooring.errors import ErrCode
from mooring.staying import DEFAULT
from tests.workers.test_staying import policy

LOST = Ended(err_code=ErrCode.CONNECTION_LOST, close_code=1006)
REFUSED_TCP = Ended(err_code=ErrCode.REFUSED)


def answered(status: int, retry_after_s: float | None = None) -> Ended:
    return Ended(err_code=ErrCode.HANDSHAKE_STATUS, status=status, retry_after_s=retry_after_s)


def redial(answer: Redial | Stop) -> Redial:
    assert isinstance(answer, Redial)
    return answer


# The three classes.


@pytest.mark.parametrize(
    ("end", "expected"),
    [(Ended(err_code=code), Fate.RETRY) for code in (101, 102, 103, 104, 105, 108, 113, 121, 122, 123, 124, 112)]
    + [(Ended(err_code=code, close_code=1006), Fate.RETRY) for code in (204, 205, 206, 207, 208, 301, 304, 305)]
    + [(Ended(err_code=code), Fate.STOP) for code in (106, 109, 110, 111, 209, 210, 302, 303)]
    + [(answered(status), Fate.RETRY) for status in (404, 408, 425, 429, 500, 502, 503, 504, 599)]
    + [(answered(status), Fate.STOP) for status in (200, 204, 300, 302, 400, 402, 405, 407, 410, 426, 600, 999, 0)]
    + [(answered(status), Fate.REFUSED) for status in (401, 403)]
    + [(Ended(close_code=code), Fate.RETRY) for code in (1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4000)]
    + [(Ended(close_code=code), Fate.STOP) for code in (1002, 1003, 1007, 1009, 1010)]
    + [(Ended(close_code=code), Fate.REFUSED) for code in (1008, 3000, 3003, 4401, 4403)]
    + [
        (Ended(err_code=201, close_code=1002), Fate.STOP),  # our own close codes
        (Ended(err_code=202, close_code=1007), Fate.STOP),
        (Ended(err_code=203, close_code=1009), Fate.STOP),
        (Ended(err_code=112, refused_step=True), Fate.REFUSED),
        (Ended(err_code=112, close_code=4401), Fate.REFUSED),
        (Ended(err_code=112, close_code=1002), Fate.STOP),
        (Ended(err_code=107), Fate.STOP),
        (Ended(), Fate.RETRY),
    ],
)
def test_every_end_has_its_class(end: Ended, expected: Fate) -> None:
    assert fate(DEFAULT, end) is expected


def test_the_lists_move_the_classes() -> None:
    moody = policy(retryStatuses=[401, 403, 503], refusedCodes=[], stopCodes=[4004, 1006])
    assert fate(moody, answered(401)) is Fate.RETRY
    assert fate(moody, answered(503)) is Fate.RETRY
    assert fate(moody, answered(500)) is Fate.STOP
    assert fate(moody, Ended(close_code=4401)) is Fate.RETRY
    assert fate(moody, Ended(close_code=1002)) is Fate.RETRY
    assert fate(moody, Ended(close_code=4004)) is Fate.STOP
    assert fate(moody, LOST) is Fate.STOP
    assert fate(moody, Ended(err_code=ErrCode.WORKER_DIED, close_code=1006)) is Fate.RETRY, "no socket's code is meant"
    assert fate(policy(stopCodes=[4401]), Ended(close_code=4401)) is Fate.STOP, "to stop beats to renew"


@given(st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers(), st.booleans())
def test_any_numbers_have_a_class(err: int | None, close: int | None, status: int | None, step: bool) -> None:
    assert fate(DEFAULT, Ended(err_code=err, close_code=close, status=status, refused_step=step)) in Fate


# The delay.


def test_the_delay_is_uniform_up_to_its_bound() -> None:  # 9
    rng = random.Random(9)
    draws = []
    for _ in range(10_000):
        keeper = Keeper(DEFAULT, 0, was_ready=True)
        keeper.n = 3
        answer = redial(keeper.ended(REFUSED_TCP, 0, rng.random(), renewable=False))
        draws.append(answer.at)
        assert answer.n == 3
        assert keeper.n == 4
    draws.sort()
    distance = max(max((i + 1) / len(draws) - draw / 8, draw / 8 - i / len(draws)) for i, draw in enumerate(draws))
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by one uniform sample in a thousand.
    assert distance < 1.95 / math.sqrt(len(draws))
    assert draws[0] >= 0
    assert draws[-1] < 8


def test_the_cap_is_applied_before_the_draw() -> None:
    rng = random.Random(10)
    keeper = Keeper(DEFAULT, 0, was_ready=True)
    keeper.n = 6
    draws = [redial(keeper.ended(REFUSED_TCP, 0, rng.random(), renewable=False)).at for _ in range(1000)]
    assert max(draws) < 60
    assert sum(draws) / len(draws) == pytest.approx(30, rel=0.1), "capped after the draw, most would wait 60"
    assert keeper.n == 1006


def test_a_lost_connection_alone_is_back_in_half_a_second() -> None:  # 7, without the dial
    rng = random.Random(7)
    waits = []
    keeper = Keeper(DEFAULT, 0)
    now = 0.0
    for _ in range(200):
        keeper.began(now)
        keeper.ready(now)
        now += 20
        at = redial(keeper.ended(LOST, now, rng.random(), renewable=False)).at
        waits.append(at - now)
        now = at
    waits.sort()
    assert waits[100] <= 0.6
    assert waits[190] <= 1.0


def test_a_server_that_accepts_and_closes_is_dialled_ever_slower() -> None:  # 8
    for seed in range(20):
        rng = random.Random(seed)
        keeper = Keeper(DEFAULT, 0)
        now, dials = 0.0, 0
        while now < 600:
            dials += 1
            keeper.began(now)
            keeper.ready(now + 0.01)
            answer = redial(keeper.ended(Ended(close_code=1000), now + 0.02, rng.random(), renewable=False))
            assert answer.n == dials - 1, "n is never reset"
            now = answer.at
        assert dials <= 40


def test_after_min_uptime_each_loss_begins_anew() -> None:  # 8
    keeper = Keeper(DEFAULT, 0)
    now = 0.0
    for _ in range(10):
        keeper.began(now)
        keeper.ready(now)
        now += 11
        answer = redial(keeper.ended(LOST, now, 0.5, renewable=False))
        assert answer == Redial(now + 0.5, 0)
        now = answer.at


def test_with_a_data_timeout_a_silent_socket_does_not_reset_n() -> None:
    keeper = Keeper(DEFAULT, 0)
    for n, proven in enumerate([False, False, False]):
        keeper.began(0)
        keeper.ready(0)
        assert redial(keeper.ended(Ended(err_code=208), 100, 0, renewable=False, proven=proven)).n == n
    keeper.ready(0)
    assert redial(keeper.ended(LOST, 100, 0, renewable=False, proven=True)).n == 0


def test_a_delay_counts_from_the_start_of_the_attempt_and_never_before_its_end() -> None:
    keeper = Keeper(policy(minDelay=4), 0, was_ready=True)
    keeper.began(100)
    assert redial(keeper.ended(REFUSED_TCP, 101, 0.75, renewable=False)).at == 103
    keeper.began(103)
    assert redial(keeper.ended(Ended(err_code=104), 113, 0.5, renewable=False)).at == 113, "8 × 0.5 were spent in it"
    assert keeper.attempts == 2


def test_attempts_are_counted_from_the_loss() -> None:
    keeper = Keeper(DEFAULT, 0)
    keeper.began(0)
    keeper.ready(0)
    keeper.ended(LOST, 20, 0, renewable=False)
    for _ in range(3):
        keeper.began(21)
        keeper.ended(REFUSED_TCP, 22, 0, renewable=False)
    keeper.began(23)
    keeper.ready(24)
    assert keeper.attempts == 4


# What the server asks for.


def test_retry_after_is_a_floor_of_at_most_an_hour() -> None:  # 10
    rng = random.Random(1)
    for _ in range(1000):
        keeper = Keeper(policy(minDelay=2), 0, was_ready=True)
        keeper.began(50)
        at = redial(keeper.ended(answered(429, 7), 51, rng.random(), renewable=False)).at
        assert 51 + 7 <= at < 51 + 7 + 2
        at = redial(keeper.ended(answered(503, 1e9), 51, rng.random(), renewable=False)).at
        assert 51 + MAX_RETRY_AFTER_S <= at < 51 + MAX_RETRY_AFTER_S + 2
    assert keeper.n == 2, "these delays count, too"


def test_retry_after_does_not_shorten_the_draw() -> None:
    keeper = Keeper(DEFAULT, 0, was_ready=True)
    keeper.n = 5
    keeper.began(50)
    assert redial(keeper.ended(answered(503, 1), 51, 0.9, renewable=False)).at == pytest.approx(50 + 0.9 * 32)


@pytest.mark.parametrize("end", [answered(429), Ended(close_code=1013), Ended(err_code=113, status=429)])
def test_not_at_once_draws_as_if_it_were_the_fourth(end: Ended) -> None:  # 10
    keeper = Keeper(DEFAULT, 0, was_ready=True)
    keeper.began(0)
    assert redial(keeper.ended(end, 0, 0.5, renewable=False)) == Redial(4, 0)
    assert keeper.n == 1
    keeper.n = 4
    assert redial(keeper.ended(end, 0, 0.5, renewable=False)).at == 8


# The refused class.


def test_a_refusal_is_renewed_once_and_another_one_stops() -> None:  # 11, 12
    keeper = Keeper(DEFAULT, 0, was_ready=True)
    assert redial(keeper.ended(answered(401), 0, 0.5, renewable=True)).renew
    assert not redial(keeper.ended(REFUSED_TCP, 1, 0.5, renewable=True)).renew
    assert keeper.ended(answered(403), 2, 0.5, renewable=True) == Stop(ErrCode.HANDSHAKE_STATUS)


def test_without_anything_to_renew_a_refusal_stops_at_once() -> None:
    assert Keeper(DEFAULT, 0, was_ready=True).ended(answered(401), 0, 0, renewable=False) == Stop(107)
    keeper = Keeper(policy(retryStatuses=[401]), 0, was_ready=True)
    assert isinstance(keeper.ended(answered(401), 0, 0, renewable=False), Redial)


def test_the_error_of_a_stop_says_who_ended_it() -> None:
    for end, error in (
        (Ended(err_code=112, refused_step=True), ErrCode.OPENING_FAILED),
        (Ended(close_code=4401), None),
        (Ended(close_code=1009), None),
        (Ended(err_code=203, close_code=1009), ErrCode.MESSAGE_TOO_BIG),
        (answered(410), ErrCode.HANDSHAKE_STATUS),
        (Ended(err_code=106), ErrCode.POLICY_REFUSED),
    ):
        assert Keeper(DEFAULT, 0, was_ready=True).ended(end, 0, 0, renewable=False) == Stop(error)


def test_a_socket_that_lasted_may_be_renewed_again() -> None:
    keeper = Keeper(DEFAULT, 0)
    now = 0.0
    for _ in range(5):
        keeper.began(now)
        keeper.ready(now)
        now += 10
        assert redial(keeper.ended(Ended(close_code=4401), now, 0, renewable=True, proven=False)).renew
    keeper.ready(now)
    assert keeper.ended(Ended(close_code=4401), now + 9.9, 0, renewable=True) == Stop(None), "it did not last"


# The first attempt, and giving up.


def test_the_one_dial_of_first_fail_ends_it_whatever_its_class() -> None:
    for end in (REFUSED_TCP, answered(503, 7), answered(401), Ended(err_code=113)):
        assert Keeper(DEFAULT, 0).ended(end, 1, 0.5, renewable=True) == Stop(end.err_code)
    assert isinstance(Keeper(policy(first="retry"), 0).ended(REFUSED_TCP, 1, 0.5, renewable=False), Redial)
    assert Keeper(policy(first="retry"), 0).ended(answered(400), 1, 0.5, renewable=False) == Stop(107)


def test_give_up_after_counts_from_the_loss() -> None:  # decision 19
    keeper = Keeper(policy(giveUpAfter=30, first="retry"), 100)
    assert keeper.gives_up_at == 130, "before the first ready: from the create"
    keeper.began(100)
    keeper.ready(129)
    assert keeper.gives_up_at == math.inf
    redial(keeper.ended(LOST, 200, 0, renewable=False))
    assert keeper.gives_up_at == 230
    redial(keeper.ended(REFUSED_TCP, 229, 0, renewable=False))
    assert keeper.ended(REFUSED_TCP, 230, 0, renewable=False) == Stop(ErrCode.GAVE_UP)
    assert Keeper(DEFAULT, 0).gives_up_at == math.inf


# Ordered and asked for.


def test_an_order_draws_no_delay_and_keeps_n() -> None:
    keeper = Keeper(DEFAULT, 0, was_ready=True)
    for _ in range(3):
        keeper.ended(REFUSED_TCP, 0, 0, renewable=False)
    assert keeper.ordered(5) == Redial(5, 3)
    assert keeper.ordered(5, 60) == Redial(65, 3)
    keeper.began(5)
    keeper.ready(5)
    assert keeper.ordered(20) == Redial(20, 0), "the socket had lasted"


def test_a_peer_that_asks_is_obeyed_at_once_but_once_in_min_uptime() -> None:
    keeper = Keeper(DEFAULT, 0)
    keeper.began(0)
    keeper.ready(0)
    assert keeper.asked(50, 0.5, at_once=True) == Redial(50, 0)
    keeper.began(50)
    keeper.ready(50)
    assert keeper.asked(51, 0.5, at_once=True) == Redial(51.5, 0), "it asks in a loop"
    keeper.began(51.5)
    keeper.ready(51.5)
    assert keeper.asked(80, 0.5, at_once=True) == Redial(80, 0)
    keeper.ready(80)
    assert keeper.asked(81, 0.5, at_once=False) == Redial(81.5, 0)


ENDS = st.builds(
    Ended,
    err_code=st.none() | st.integers(90, 320),
    close_code=st.none() | st.integers(0, 5100),
    status=st.none() | st.integers(0, 999),
    refused_step=st.booleans(),
    retry_after_s=st.none() | st.floats(0, allow_nan=False),
)


@given(st.lists(st.tuples(ENDS, st.booleans(), st.floats(0, 1000), st.floats(0, 1), st.booleans()), max_size=80))
def test_whatever_happens_the_next_dial_lies_ahead_and_within_its_bounds(
    steps: list[tuple[Ended, bool, float, float, bool]],
) -> None:
    keeper = Keeper(policy(first="retry", giveUpAfter=5000), 0)
    now = 0.0
    for end, ready, passed, chance, flag in steps:
        keeper.began(now)
        if ready:
            keeper.ready(now)
        now += passed
        answer = keeper.ended(end, now, chance, renewable=flag, proven=flag)
        if isinstance(answer, Stop):
            assert answer.err_code in (end.err_code, ErrCode.GAVE_UP)
            return
        floor = min(end.retry_after_s or 0, MAX_RETRY_AFTER_S)
        assert now + floor <= answer.at <= now + max(60, floor + 1)
        assert keeper.n == answer.n + 1
        now = answer.at
