"""The clock that tells ages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_service.journal.clock import CONFIRM_MS, AgeClock, read_clocks

S = 1_000
DAY = 86_400 * S
NOW = 20_000 * DAY  # a day of this century


class Machine:
    """Two clocks, of which one may be set."""

    def __init__(self, wall_ms: int = NOW) -> None:
        self.wall_ms = wall_ms
        self.passed_ms = 12_345

    def read(self) -> tuple[int, int]:
        return self.wall_ms, self.passed_ms

    def wait(self, ms: int) -> None:
        self.wall_ms += ms
        self.passed_ms += ms


def test_it_begins_with_the_wall_clock_and_goes_on_with_what_passes() -> None:
    machine = Machine()
    clock = AgeClock(0, machine.read)
    assert clock.now_ms() == NOW
    machine.wait(3 * DAY)
    assert clock.now_ms() == NOW + 3 * DAY


@pytest.mark.parametrize("jump", [10 * DAY, -10 * DAY, 20_000 * DAY])
@pytest.mark.parametrize("for_ms", [2 * S, 30 * DAY])
def test_a_step_of_the_wall_clock_ages_nothing(jump: int, for_ms: int) -> None:
    machine = Machine()
    clock = AgeClock(NOW, machine.read)
    machine.wait(5 * S)
    machine.wall_ms += jump
    machine.wait(for_ms)
    assert clock.now_ms() == NOW + 5 * S + for_ms
    machine.wall_ms -= jump
    machine.wait(2 * CONFIRM_MS)
    assert clock.now_ms() == NOW + 5 * S + for_ms + 2 * CONFIRM_MS


def test_the_time_without_a_service_counts_once_it_is_confirmed() -> None:
    machine = Machine()
    clock = AgeClock(NOW - 3 * DAY, machine.read)
    machine.wait(CONFIRM_MS - 1)
    assert clock.now_ms() == NOW - 3 * DAY + CONFIRM_MS - 1
    machine.wait(1)
    assert clock.now_ms() == NOW + CONFIRM_MS
    machine.wall_ms += DAY
    assert clock.now_ms() == NOW + CONFIRM_MS, "once"


def test_a_start_with_a_wall_clock_that_is_ahead_counts_only_what_is_true_when_it_is_set_right() -> None:
    machine = Machine(NOW + 10 * DAY)
    clock = AgeClock(NOW - DAY, machine.read)
    machine.wait(2 * S)
    machine.wall_ms -= 10 * DAY
    machine.wait(CONFIRM_MS)
    assert clock.now_ms() == NOW + 2 * S + CONFIRM_MS


def test_a_machine_without_a_battery_goes_on_where_the_last_service_ended() -> None:
    machine = Machine(wall_ms=0)
    clock = AgeClock(NOW, machine.read)
    machine.wait(20 * S)
    machine.wall_ms = NOW + 2 * DAY  # by NTP
    assert clock.now_ms() == NOW + 20 * S, "what was written just now is not two days old"
    machine.wait(CONFIRM_MS)
    assert clock.now_ms() == NOW + 20 * S + CONFIRM_MS
    again = AgeClock(clock.now_ms(), machine.read)
    machine.wait(CONFIRM_MS)
    assert again.now_ms() == machine.wall_ms, "the next start knows how long it was"


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 10**7))), st.integers(0, 2 * NOW))
def test_it_never_goes_back(steps: list[tuple[int, int]], last_ms: int) -> None:
    machine = Machine()
    clock = AgeClock(last_ms, machine.read)
    before = last_ms
    for step_ms, wait_ms in steps:
        machine.wall_ms += step_ms
        machine.wait(wait_ms)
        assert clock.now_ms() >= before
        before = clock.now_ms()


def test_the_machines_own_clocks_are_read_in_milliseconds() -> None:
    (wall, passed), (wall_after, passed_after) = read_clocks(), read_clocks()
    assert wall > NOW - 2_000 * DAY
    assert 0 <= wall_after - wall < 60 * S and 0 <= passed_after - passed < 60 * S
