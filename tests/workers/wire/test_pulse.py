"""The pings of one connection, on a loop without time and on a real one."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mooring.deadline import PASS_S
from mooring.wire.pulse import Pulse
from tests.conftest import wait_for
from tests.workers.connection.standing_loop import Loop


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.05, 5.0), (0.1, 0.1), (0.2, 0.05), (20.0, 20.0)])
def test_a_peer_that_answers_is_pinged_every_interval(interval_s: float, timeout_s: float) -> None:
    loop = Loop()
    began = loop.time()
    pings: list[float] = []
    dead: list[float] = []

    def answered(frame: bytes) -> None:
        pings.append(loop.time())
        pulse.live.last_byte_at = loop.time()

    pulse = Pulse(loop, interval_s, timeout_s, answered, dead.append)
    loop.advance(10.5 * interval_s)
    pulse.stop()
    loop.advance(60)
    assert pings == pytest.approx([began + number * interval_s for number in range(1, 11)])
    assert dead == []


async def test_a_peer_that_answers_is_never_pinged_early_by_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    interval_s = 0.05
    pings: list[float] = []
    dead: list[float] = []

    def answered(frame: bytes) -> None:
        pings.append(loop.time())
        pulse.live.last_byte_at = loop.time()

    pulse = Pulse(loop, interval_s, 5.0, answered, dead.append)
    await wait_for(lambda: len(pings) >= 10)
    pulse.stop()
    assert all(after - before >= 0.9 * interval_s for before, after in itertools.pairwise(pings))
    assert dead == []


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.05, 0.3), (0.1, 0.1), (0.2, 0.05), (20.0, 20.0)])
def test_a_peer_that_is_silent_is_called_dead_once(interval_s: float, timeout_s: float) -> None:
    loop = Loop()
    pings: list[bytes] = []
    dead: list[float] = []
    pulse = Pulse(loop, interval_s, timeout_s, pings.append, dead.append)
    loop.advance(interval_s + timeout_s + 0.9 * PASS_S)
    assert (len(pings), dead) == (1, [])
    loop.advance(0.2 * PASS_S)
    assert len(dead) == 1
    loop.advance(10 * (interval_s + timeout_s))
    assert (len(pings), len(dead)) == (1, 1)
    pulse.stop()


async def test_bytes_that_waited_in_the_socket_while_the_loop_was_late_are_seen_first() -> None:
    loop = asyncio.get_running_loop()
    dead: list[float] = []
    pulse = Pulse(loop, 10.0, 5.0, lambda frame: None, dead.append)
    now = loop.time()
    assert pulse.beat(now + 10.0) == now + 15.0
    again = pulse.beat(now + 60.0)  # the loop was away: what the peer sent has not been read
    assert again is not None and again < now + 60.1
    pulse.live.last_byte_at = now + 60.0
    assert pulse.beat(again) == now + 70.0
    assert dead == []
    pulse.stop()
