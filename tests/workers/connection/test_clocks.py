"""The clocks of the application: heartbeats, their answers, and silence."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.clocks import Beat, Clocks, Dead, Silent, Wait
from mooring.connection.keep_alive import KeepAlive, compile_keep_alive
from mooring.kept_options import KeepAliveRequest


def keep_alive(**keys: Any) -> KeepAlive:
    return compile_keep_alive(msgspec.convert(keys, KeepAliveRequest), "", [])


PING = keep_alive(send="ping", expect="pong", interval=20, timeout=5)


def test_a_heartbeat_that_is_not_answered_is_death_whatever_else_comes() -> None:  # 21
    clocks = Clocks(PING, 0, now=100)
    assert clocks.check(100) == Wait(120)
    assert clocks.check(120) == Beat()
    assert clocks.awaits
    clocks.last_message_at = 124.9  # data flows on
    assert clocks.check(124.9) == Wait(125)
    assert clocks.check(125) == Dead(5)


def test_answers_alone_are_life() -> None:  # 21
    clocks = Clocks(PING, 0, now=100)
    for beat in range(1, 50):
        assert clocks.check(100 + 20 * beat) == Beat()
        clocks.answered()
        assert not clocks.awaits
        assert clocks.check(101 + 20 * beat) == Wait(120 + 20 * beat)
    assert not clocks.proven, "no message has come"


def test_with_a_timeout_above_the_interval_an_answer_counts_for_all_before_it() -> None:
    clocks = Clocks(keep_alive(send="x", expect="y", interval=2, timeout=5), 0, now=0)
    assert [clocks.check(at) for at in (2, 4, 6)] == [Beat(), Beat(), Beat()]
    assert clocks.check(6.9) == Wait(7)
    clocks.answered()
    assert clocks.awaits, "two more are to come, and are to be hidden"
    assert clocks.check(7) == Wait(8)
    clocks.answered()
    clocks.answered()
    clocks.answered()
    assert not clocks.awaits


def test_without_expect_nothing_is_awaited() -> None:
    clocks = Clocks(keep_alive(send="x", interval=20), 0, now=0)
    assert clocks.check(20) == Beat()
    assert not clocks.awaits
    assert clocks.check(39) == Wait(40)


def test_when_idle_a_heartbeat_waits_for_quiet_on_both_sides() -> None:
    clocks = Clocks(keep_alive(send="x", interval=20, whenIdle=True), 0, now=0)
    clocks.last_sent_at = 5
    assert clocks.check(20) == Wait(25)
    clocks.last_message_at = 24
    assert clocks.check(25) == Wait(44)
    assert clocks.check(44) == Beat()
    assert clocks.check(44) == Wait(64)
    busy = Clocks(keep_alive(send="x", interval=20), 0, now=0)
    busy.last_sent_at = busy.last_message_at = 19
    assert busy.check(20) == Beat(), "a server may demand it however much flows"


def test_within_counts_messages_and_hidden_frames() -> None:
    clocks = Clocks(keep_alive(hide=["2"], within=45), 0, now=0)
    assert clocks.check(44) == Wait(45)
    clocks.last_hidden_at = 25
    assert clocks.check(45) == Wait(70)
    clocks.last_message_at = 30
    assert clocks.check(70) == Wait(75)
    assert clocks.check(75) == Dead(45)


def test_silence_is_told_once_whatever_heartbeats_say() -> None:  # 22
    clocks = Clocks(PING, 2, now=0)
    clocks.last_hidden_at = 1
    assert clocks.check(1.9) == Wait(2)
    assert clocks.check(2) == Silent(0), "also from birth"
    assert clocks.check(2) == Wait(20), "told once"
    clocks.last_message_at = 3
    assert clocks.proven
    assert clocks.check(3) == Wait(5)
    assert clocks.check(5.5) == Silent(3)
    assert clocks.check(5.5) == Wait(20)


def test_all_stand_still_while_we_do_not_read() -> None:  # 23
    clocks = Clocks(keep_alive(send="x", expect="y", interval=20, timeout=5, within=6), 5, now=0)
    clocks.last_message_at = 3
    clocks.paused(4)
    clocks.paused(10)
    beats = 0
    for now in range(5, 65):
        found = clocks.check(now)
        beats += isinstance(found, Beat)
        assert isinstance(found, (Beat, Wait)), "nothing is judged"
    assert beats == 3, "the server goes on hearing us"
    clocks.resumed(64)
    clocks.resumed(64)
    assert clocks.check(64) == Wait(68), "of five seconds of silence one was over"
    assert clocks.check(68) == Silent(63)
    assert clocks.check(68) == Wait(69)
    assert isinstance(clocks.check(69), Dead), "each has as long again as it had: within, and the answer"


def test_the_interval_that_the_server_tells_replaces_ours() -> None:
    clocks = Clocks(keep_alive(send="x", interval=30, intervalFrom="${i}", unit="ms"), 0, now=0)
    clocks.told(41_250)
    assert clocks.check(30) == Wait(41.25)
    clocks.told("junk")
    assert clocks.check(30) == Beat()


def test_without_anything_nothing_is_ever_due() -> None:
    assert Clocks(None, 0, now=5).check(1e9) == Wait(math.inf)


@given(
    st.lists(st.tuples(st.sampled_from("mhsapr."), st.floats(0, 10)), max_size=60),
    st.sampled_from([PING, None, keep_alive(send="x", expect="y", interval=1, timeout=3, within=4, whenIdle=True)]),
    st.sampled_from([0, 0.1, 7]),
)
def test_what_is_said_to_be_due_later_lies_later(
    steps: list[tuple[str, float]], beats: KeepAlive | None, data_timeout_s: float
) -> None:
    clocks = Clocks(beats, data_timeout_s, now=0)
    now = 0.0
    for what, passed in steps:
        now += passed
        if what == "m":
            clocks.last_message_at = now
        elif what == "h":
            clocks.last_hidden_at = now
        elif what == "s":
            clocks.last_sent_at = now
        elif what == "a":
            clocks.answered()
        elif what == "p":
            clocks.paused(now)
        elif what == "r":
            clocks.resumed(now)
        for _ in range(4):
            found = clocks.check(now)
            if isinstance(found, Wait):
                assert found.at > now
                break
            if isinstance(found, Dead):
                return
        else:
            raise AssertionError("it never comes to rest")
