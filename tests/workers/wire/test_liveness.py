"""The clocks of a socket."""

from __future__ import annotations

import pytest

from mooring.wire.liveness import Dead, Liveness, Ping, Wait


def run(interval_s: float, timeout_s: float, until: float, *, round_trip_s: float, dies_at: float) -> list[float]:
    """Ask whenever `check` says; a peer answers after `round_trip_s` until `dies_at`. Return the times of pings, and death."""
    live = Liveness(interval_s, timeout_s, now=0)
    now, times, answers = 0.0, [], []
    while now < until:
        while answers and answers[0] <= now:
            live.last_byte_at = answers.pop(0)
        match live.check(now):
            case Ping():
                times.append(now)
                if now + round_trip_s < dies_at:
                    answers.append(now + round_trip_s)
            case Dead():
                return [*times, now]
            case Wait(at):
                assert at > now, "a wait leads on"
                now = at
    return times


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(1, 20), (5, 20), (15, 20), (20, 20), (30, 20)])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.25, 4.0])
def test_a_peer_that_answers_is_pinged_an_interval_after_each_answer(
    interval_s: float, timeout_s: float, round_trip_s: float
) -> None:
    period = interval_s + round_trip_s
    times = run(interval_s, timeout_s, 10 * period, round_trip_s=round_trip_s, dies_at=1e9)
    assert times == [interval_s + number * period for number in range(len(times))]
    assert len(times) >= 9


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(1, 20), (5, 20), (15, 20), (20, 20), (30, 20)])
@pytest.mark.parametrize("dies_at", [0.5, 7.0, 20.5, 31.0, 47.0])
def test_a_dead_peer_is_noticed_within_interval_and_timeout(
    interval_s: float, timeout_s: float, dies_at: float
) -> None:
    *pings, dead_at = run(interval_s, timeout_s, 1e6, round_trip_s=0.125, dies_at=dies_at)
    assert dead_at == pings[-1] + timeout_s
    assert dead_at <= dies_at + interval_s + timeout_s, "its last byte came before it died"


def test_it_may_be_asked_at_any_time() -> None:
    live = Liveness(20, 5, now=100)
    assert [live.check(at) for at in (100, 101.5, 119)] == [Wait(120)] * 3
    assert live.check(121.5) == Ping(), "late by what the ask was late"
    assert live.check(122) == Wait(126.5)
    live.last_byte_at = 122.25
    assert live.check(122.5) == live.check(123) == Wait(142.25)


def test_an_idle_peer_is_pinged_and_given_up_after_the_timeout() -> None:
    live = Liveness(20, 5, now=100)
    assert live.check(110) == Wait(120)
    assert live.check(120) == Ping()
    assert live.check(120) == Wait(125)
    assert live.check(125) == Dead(5)


def test_any_byte_is_life_also_in_the_pings_own_instant() -> None:
    for pong_at in (120, 120.5, 124.9):
        live = Liveness(20, 5, now=100)
        assert live.check(120) == Ping()
        live.last_byte_at = pong_at
        assert live.check(125) == Wait(pong_at + 20)


def test_the_deadline_stands_still_while_we_do_not_read() -> None:
    live = Liveness(20, 5, now=100)
    assert live.check(120) == Ping()
    live.paused(121)
    assert isinstance(live.check(200), Wait)
    live.resumed(221)
    assert not isinstance(live.check(221.5), Dead)


def test_interval_zero_never_pings() -> None:
    assert Liveness(0, 5, now=0).check(1e9) == Wait(float("inf"))
