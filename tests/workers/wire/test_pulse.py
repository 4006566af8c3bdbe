"""The pings of one connection, on a real loop."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mooring.wire.pulse import Pulse
from tests.conftest import wait_for


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.05, 5.0), (0.1, 0.1), (0.2, 0.05)])
async def test_a_peer_that_answers_is_pinged_every_interval(interval_s: float, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    pings: list[float] = []
    dead: list[float] = []

    def answered(frame: bytes) -> None:
        pings.append(loop.time())
        pulse.live.last_byte_at = loop.time()

    pulse = Pulse(loop, interval_s, timeout_s, answered, dead.append)
    began = loop.time()
    await wait_for(lambda: len(pings) == 10)
    pulse.stop()
    assert loop.time() - began < 20 * interval_s + 1.0, "ten intervals, on a machine that may be busy"
    assert all(after - before >= 0.9 * interval_s for before, after in itertools.pairwise(pings))
    assert dead == []


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.05, 0.3), (0.1, 0.1), (0.2, 0.05)])
async def test_a_peer_that_is_silent_is_called_dead_once(interval_s: float, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    pings: list[bytes] = []
    dead: list[float] = []
    pulse = Pulse(loop, interval_s, timeout_s, pings.append, dead.append)
    began = loop.time()
    await wait_for(lambda: dead)
    assert interval_s + timeout_s <= loop.time() - began < interval_s + timeout_s + 1.0
    assert len(pings) == 1
    await asyncio.sleep(interval_s + timeout_s)
    assert len(dead) == 1
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
