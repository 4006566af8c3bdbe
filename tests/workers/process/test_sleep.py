"""A machine that sleeps: its peers are asked once, and nobody is judged by a clock that stood still."""

from __future__ import annotations

from mooring.process.sleep import Sleep
from mooring.wire.liveness import Dead, Liveness, Ping, Wait


def test_a_jump_of_the_boot_clock_is_told_once() -> None:
    slept = [0.0]
    sleep = Sleep(lambda: slept[0])
    assert not sleep.over()
    slept[0] += 4.9
    assert not sleep.over(), "nobody has noticed"
    slept[0] += 60
    assert sleep.over()
    assert not sleep.over()


def test_after_a_sleep_there_is_one_ping_at_once_with_a_short_deadline() -> None:
    live = Liveness(20, 20, 1000.0)
    assert live.check(1001.0) == Wait(1020.0)
    live.probe(5)
    assert live.check(1001.0) == Ping()
    assert live.check(1001.0) == Wait(1006.0), "one ping, no storm"
    assert isinstance(live.check(1006.0), Dead)


def test_a_peer_that_answers_has_its_ordinary_time_again() -> None:
    live = Liveness(20, 3, 1000.0)
    live.probe(5)
    assert live.check(1001.0) == Ping()
    assert live.check(1001.0) == Wait(1004.0), "its own timeout is shorter"
    live.last_byte_at = 1001.5
    assert live.check(1001.6) == Wait(1021.5)


def test_where_nothing_is_ever_pinged_a_sleep_changes_nothing() -> None:
    live = Liveness(0, 20, 1000.0)
    live.probe(5)
    assert live.check(1001.0) == Wait(float("inf"))
