"""Who may start now, and who waits."""

from __future__ import annotations

from mooring_service.processes.turns import Turns


async def test_so_many_at_a_time_in_the_order_in_which_they_came() -> None:
    turns = Turns(2)
    one, two, three, four = (turns.take() for _ in range(4))
    assert [turn.come.done() for turn in (one, two, three, four)] == [True, True, False, False]
    two.give_back()
    assert three.come.done() and not four.come.done()


async def test_one_that_gives_up_while_it_waits_is_passed_over() -> None:
    turns = Turns(1)
    one, two, three = (turns.take() for _ in range(3))
    two.give_back()
    one.give_back()
    assert three.come.done() and not two.come.done()


async def test_giving_back_twice_gives_back_once() -> None:
    turns = Turns(1)
    one, two, three = (turns.take() for _ in range(3))
    one.give_back()
    one.give_back()
    assert two.come.done() and not three.come.done()
