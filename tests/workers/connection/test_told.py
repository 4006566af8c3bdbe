"""What a recipe or a heartbeat cannot say, for want of a value, is told in the log once, however often it is due; each time is counted."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.kept_options import AnswerRequest, KeepAliveRequest, RecipeRequest, RememberRequest
from tests.workers.connection.world import World

OFTEN = 5
ASKS: dict[str, Any] = {
    "recipe": RecipeRequest(
        remember={"place": RememberRequest(pointer="/place")},
        answers=[AnswerRequest(when="where", send="at ${place}"), AnswerRequest(when="who", send="of ${place}")],
    ),
    "keep_alive": KeepAliveRequest(send="still at ${place}", interval=1),
}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_an_answer_that_cannot_be_filled_in_is_told_once_on_each_socket(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    _, transport = world.ready(recipe=ASKS["recipe"])
    for _ in range(OFTEN):
        transport.say("where")
        transport.say("who")
    world.loop.advance()
    assert told(caplog) == [f"connection 1: /recipe/answers/{index} is not sent: missing: place" for index in range(2)]
    assert world.metrics.unanswered == 2 * OFTEN
    transport.close_with(1000)
    again = world.next_dial().accept()
    world.loop.advance()
    for _ in range(OFTEN):
        again.say("who")
    world.loop.advance()
    assert told(caplog) == ["connection 1: /recipe/answers/1 is not sent: missing: place"]


def test_a_heartbeat_that_cannot_be_filled_in_is_told_once_until_one_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    _, transport = world.ready(**ASKS)
    world.loop.advance(OFTEN + 0.5)
    assert told(caplog) == ["connection 1: keepAlive is not sent: missing: place"]
    assert world.metrics.unanswered >= OFTEN
    transport.say('{"place": "home"}')
    world.loop.advance(2)
    assert (1, b"still at home") in transport.sent
    assert told(caplog) == []
