"""The clocks of a socket."""

from __future__ import annotations

from mooring.wire.liveness import Dead, Liveness, Ping, Wait


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
