"""When the next pass over the subscribers is due."""

from __future__ import annotations

import math

from mooring_service.passes import DEAR_S, FEW, LOOK_SHARE, PAUSE_MAX_S, SHARE, WOKEN_S, Passes


def test_there_is_no_pause_before_the_first_pass_nor_behind_one_that_serves_few() -> None:
    passes = Passes()
    assert passes.due_s == -math.inf and not passes.pause_s
    passes.passed(100.0, DEAR_S, written=FEW, woken=0)
    assert passes.due_s == 100.0 and not passes.pause_s
    passes.passed(100.0, DEAR_S, written=FEW - 1, woken=1)
    assert passes.due_s == 100.0 and not passes.pause_s


def test_many_that_are_written_to_take_no_more_than_their_share_of_the_time() -> None:
    passes = Passes()
    now = 100.0
    spent = 0.0
    for cost in (0.0008, 0.0012, 0.0005) * 20:
        passes.passed(now, cost, written=50, woken=0)
        spent += cost
        assert passes.due_s == now + SHARE * cost == now + passes.pause_s
        now = passes.due_s
    assert math.isclose(spent / (now - 100.0), 1 / SHARE)


def test_those_that_are_woken_cost_what_their_tasks_do_behind_the_pass() -> None:
    passes = Passes()
    passes.passed(100.0, 0.0001, written=5, woken=20)
    assert math.isclose(passes.pause_s, SHARE * (0.0001 + 20 * WOKEN_S))


def test_a_pause_has_a_bound_and_ends_with_the_many() -> None:
    passes = Passes()
    passes.passed(100.0, 0.02, written=1_000, woken=0)
    assert passes.pause_s == PAUSE_MAX_S
    passes.passed(101.0, 0.0002, written=1, woken=0)
    assert passes.due_s == 101.0, "one of 1,000 wanted something: the next need not wait"


def test_looking_at_very_many_for_few_takes_no_more_than_its_share_either() -> None:
    passes = Passes()
    passes.passed(100.0, 0.004, written=1, woken=0)
    assert math.isclose(passes.pause_s, LOOK_SHARE * 0.004)
    passes.left()
    assert passes.due_s < 100.0 and not passes.pause_s, "nobody is there any more"
