"""What mooring itself says and hears, in a world without an outside: where two things meet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mooring.connection import attempt, catching_up
from mooring.connection.kept import LET_GO_S
from mooring.errors import ErrCode, LimitReached, MooringError
from mooring.kept_options import (
    AnswerRequest,
    CatchUpRequest,
    KeepAliveRequest,
    RecipeRequest,
    ReconnectRequest,
    RenewRequest,
    StepRequest,
)
from mooring.link.outbox import Outbox
from mooring.options import ConnectionRequest, effective
from tests.workers.connection.standing_loop import Timeout, Transport
from tests.workers.connection.world import World

STORED = [AnswerRequest(when={"/id": {"exists": True}}, send={"ack": "${/id}"}, after="stored")]
BEAT = {"send": "k", "interval": 5, "timeout": 3}
QUICK = ReconnectRequest(min_delay=0.05, max_delay=0.05)


def told(world: World) -> list[str]:
    """Return the kinds of what was recorded, and of messages their text, marked where they were filled."""
    world.loop.advance()
    return [
        ("+" if event.get("filled") else "") + event["data"] if kind == "onMessage" else kind
        for _, kind, event in world.events
    ]


@pytest.mark.parametrize(
    "keep_alive", [{**BEAT, "expect": {"/id": {"exists": True}}}, {**BEAT, "hide": [{"/id": {"exists": True}}]}]
)
def test_a_heartbeat_that_is_acknowledged_once_it_is_stored_is_stored(keep_alive: dict[str, object]) -> None:
    world = World()
    _, transport = world.ready(
        recipe=RecipeRequest(answers=STORED), keep_alive=KeepAliveRequest(**keep_alive), ping_interval=0  # type: ignore[arg-type]
    )  # fmt: skip
    world.loop.advance(5.1)  # a heartbeat has gone out
    transport.say('{"id":1}')
    transport.say("x")
    transport.say('{"id":2}')
    assert told(world) == ["onOpen", '{"id":1}', "x", '{"id":2}'], "what was acknowledged is there"
    world.loop.advance(0.1)
    assert [payload for opcode, payload in transport.sent if b"ack" in payload] == [b'{"ack":1}', b'{"ack":2}']


@pytest.fixture
def by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (attempt, catching_up):
        monkeypatch.setattr(room, "within", Timeout)


@pytest.mark.usefixtures("by_the_clock")
def test_what_was_fetched_for_a_socket_that_has_ended_comes_before_the_messages_of_the_next() -> None:
    world = World()
    catches = RecipeRequest(catch_up=CatchUpRequest(function="fetch", timeout=60))
    connection, transport = world.ready(recipe=catches, reconnect=QUICK)
    transport.say("a")
    transport.close_with(1001)
    second = world.next_dial().accept()
    world.loop.advance()
    second.say("c")
    second.close_with(1001)  # and its function has not returned
    world.loop.advance()
    world.catch_ups[0].give(["b"])
    before = ["onOpen", "a", "onDisconnect", "onReconnect", "c", "onDisconnect"]
    assert told(world) == before, "there is nothing between the loss and the return"
    third = world.next_dial().accept()
    world.loop.advance()
    third.say("e")
    world.catch_ups[1].give(["d"])
    assert told(world) == [*before, "onReconnect", "+b", "+d", "e"]
    third.close_with(1001)
    fourth = world.next_dial().accept()
    world.loop.advance()
    fourth.close_with(1001)
    connection.terminate(None, None)
    world.loop.advance()
    world.catch_ups[2].give(["late"])
    assert told(world)[-3:] == ["onReconnect", "onDisconnect", "onTerminate"], "and none behind the end"
    assert world.dense() and not world.failures


@pytest.mark.usefixtures("by_the_clock")
@pytest.mark.parametrize("why", [LimitReached, TypeError])
@pytest.mark.parametrize("comes_first", [True, False])
def test_what_was_fetched_for_a_socket_that_has_ended_may_be_too_much_or_nonsense_and_takes_nothing_with_it(
    why: type[Exception], comes_first: bool
) -> None:
    world = World()
    transport = _fetching(world, 2)
    wrong: list[object] = ["x" * (world.settings.mailbox_bytes + 1)] if why is LimitReached else [1]
    transport.close_with(1001)
    world.loop.advance()
    for catch_up, found in zip(world.catch_ups, (wrong, ["b"]) if comes_first else (["b"], wrong), strict=True):
        catch_up.give(found)
        world.loop.advance()
    transport = world.next_dial().accept()
    world.loop.advance()
    transport.say("live")
    world.catch_ups[2].give([])
    assert told(world)[-4:] == ["onDisconnect", "onReconnect", "+b", "live"]
    assert [(callback, type(exc)) for callback, exc in world.failures] == [("catchUp", why)]


@pytest.mark.usefixtures("by_the_clock")
def test_two_fetches_wait_for_the_next_socket_as_large_as_each_may_be_and_who_comes_later_is_told() -> None:
    world = World()
    transport = _fetching(world, 4)
    large = "x" * (world.settings.mailbox_bytes * 2 // 3)
    transport.close_with(1001)
    world.loop.advance()
    for catch_up, found in zip(world.catch_ups, (["b" + large], [], ["c" + large], ["late"]), strict=True):
        catch_up.give(found)
        world.loop.advance()
    assert [(callback, type(exc)) for callback, exc in world.failures] == [("catchUp", MooringError)]
    world.next_dial().accept()
    world.loop.advance()
    world.catch_ups[4].give(["d"])
    assert [text[:2] for text in told(world)[-4:]] == ["on", "+b", "+c", "+d"]
    assert len(world.failures) == 1


def _fetching(world: World, count: int) -> Transport:
    """Return the ready socket of a connection; its function runs for that one, and for those before."""
    world.settings = msgspec.structs.replace(world.settings, mailbox_bytes=3_000)
    catches = RecipeRequest(catch_up=CatchUpRequest(function="fetch", timeout=60))
    _, transport = world.ready(recipe=catches, reconnect=QUICK)
    for _ in range(count):
        transport.close_with(1001)
        transport = world.next_dial().accept()
        world.loop.advance()
    return transport


@pytest.mark.usefixtures("by_the_clock")
def test_values_that_are_none_fail_the_attempt_as_renew_and_any_text_is_one() -> None:
    world = World()
    deep: list[object] = []
    deep.append(deep)
    connection = world.open(
        recipe=RecipeRequest(renew=RenewRequest(function="give"), opening=[StepRequest(send=["${token}"])]),
        reconnect=ReconnectRequest(first="retry", max_delay=1),
    )
    for wrong in (object(), {(1, 2): 3}, deep, {"x" * 2**13: 0}):
        world.renewals[-1].give({"token": wrong})
        world.loop.advance()
        down = connection.down
        assert down is not None and [error.err_code for error in down.errors] == [ErrCode.RENEW_FAILED]
        world.loop.advance(1)
    world.renewals[-1].give({"token": "\ud800"})
    world.loop.advance()
    sent = world.dialler.dials[-1].accept()
    world.loop.advance()
    assert sent.sent == [(1, b'["\\ud800"]')]


def test_a_step_has_its_time_however_much_the_server_says_meanwhile() -> None:
    world = World()
    beats = RecipeRequest(
        opening=[StepRequest(send="login", expect="ok", timeout=1)],
        answers=[AnswerRequest(when="beat", send="back", hide=True)],
    )
    connection = world.open(recipe=beats, reconnect=ReconnectRequest(first="retry", min_delay=3600, max_delay=3600))
    transport = world.dialler.dials[-1].accept()
    for _ in range(150):
        world.loop.advance(0.01)
        transport.say("beat")
    down = connection.down
    assert down is not None and [error.err_code for error in down.errors] == [ErrCode.OPENING_FAILED]
    assert transport.is_closing()


@pytest.mark.parametrize(
    "clocks", [{"data_timeout": 1.0}, {"keep_alive": KeepAliveRequest(send="k", expect="kk", interval=1, timeout=1)}]
)
def test_a_server_that_is_slow_to_answer_our_close_is_judged_by_no_clock_but_that_of_the_close(
    clocks: dict[str, Any],
) -> None:
    world = World()
    connection, transport = world.ready(close_timeout=5, **clocks)
    connection.terminate(None, None)
    world.loop.advance(4.5)
    assert not transport.is_closing() and world.kinds() == ["onOpen"]
    transport.say("what is handed over no more")
    transport.close_with(1000)
    assert world.kinds() == ["onOpen", "onTerminate"] and world.event("onTerminate")["code"] == 1000

    connection, transport = world.ready(close_timeout=5, **clocks)
    world.loop.advance(0.5)
    world.order(connection)
    world.loop.advance(LET_GO_S + 0.1)
    assert (world.event("onDisconnect")["cause"], world.event("onDisconnect")["errors"]) == ("order", [])


@pytest.mark.parametrize("before", [0.0, 60.0])
def test_clocks_that_are_set_while_a_socket_is_let_go_judge_nobody(before: float) -> None:
    world = World()
    connection, transport = world.ready(close_timeout=5, data_timeout=before)
    world.order(connection, delay_s=30)
    asked = ConnectionRequest(url="ws://a.test/", reconnect=True, ping_interval=0, data_timeout=0.1)
    connection.change(effective(asked), connection.created)
    world.loop.advance(LET_GO_S / 2)
    assert world.kinds() == ["onOpen"] and not transport.is_closing(), "the server has its time to answer"
    transport.close_with(1000)
    lost_at = world.loop.now
    assert (world.event("onDisconnect")["cause"], world.event("onDisconnect")["errors"]) == ("order", [])
    second = world.next_dial()
    assert second.began_at == pytest.approx(lost_at + 30), "as was ordered"
    second.accept()
    world.loop.advance(1)
    assert world.event("onDisconnect")["cause"] == "silence", "they run with the next socket"


def test_clocks_that_are_set_while_nothing_is_read_stand_still_until_it_is() -> None:
    world = World()
    world.outbox = Outbox(1, world._take, lambda: None)
    connection, transport = world.ready()
    transport.say("x")
    assert connection in world.paused and not transport.is_reading()
    asked = ConnectionRequest(url="ws://a.test/", reconnect=True, ping_interval=0, data_timeout=1, when_silent="report")
    connection.change(effective(asked), connection.created)
    world.loop.advance(5)
    assert world.kinds() == ["onOpen", "onMessage"], "nothing could come"
    connection.resume_if_room()
    world.loop.advance(0.9)
    assert world.kinds() == ["onOpen", "onMessage"]
    world.loop.advance(0.2)
    assert world.kinds() == ["onOpen", "onMessage", "onSilence"]
