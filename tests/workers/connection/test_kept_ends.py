"""Kept connections in a world without an outside: what is ordered, how they end, and what is left to another process."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mooring.bounds import RedialLimits
from mooring.connection.kept import LET_GO_S
from mooring.connection.kept_state import KeptState
from mooring.errors import ErrCode
from mooring.events import rfc3339
from mooring.kept_options import ReconnectRequest
from mooring.link.messages import OpenFailed, ReconnectDone, TerminateDone
from tests.conftest import rounds
from tests.workers.connection.world import World

RETRY = ReconnectRequest(first="retry")


# Orders.


def test_an_order_closes_the_socket_and_the_next_one_waits_for_that() -> None:
    world = World()
    connection, transport = world.ready()
    world.order(connection, 7, code=3001, reason="renewed", wait=True)
    world.loop.advance()
    assert transport.closed_with == 3001 and len(world.dialler.dials) == 1
    assert world.kinds() == ["onOpen"], "the old socket has not ended"
    transport.close_with(3001)
    world.loop.advance()
    assert world.kinds() == ["onOpen", "onDisconnect"] and len(world.dialler.dials) == 2
    assert world.event("onDisconnect")["cause"] == "order"
    assert world.answers == []
    world.dialler.dials[1].accept()
    world.loop.advance()
    assert world.answers == [ReconnectDone(7, world.outbox.number, "Connected")]


def test_a_server_that_does_not_answer_the_close_is_not_waited_for_longer_than_a_second() -> None:
    world = World()
    connection, transport = world.ready()
    world.order(connection)
    world.loop.advance(LET_GO_S + 0.01)
    assert len(world.dialler.dials) == 2 and transport.is_closing()
    assert world.event("onDisconnect")["code"] == 1006


def test_fifty_orders_are_one() -> None:  # 17
    world = World()
    connection, transport = world.ready()
    for request in range(1, 51):
        world.order(connection, request)
    transport.close_with(1000)
    world.loop.advance()
    for request in range(51, 101):
        world.order(connection, request)
    world.loop.advance()
    assert len(world.dialler.dials) == 2
    assert [type(answer) for answer in world.answers] == [ReconnectDone] * 100
    world.dialler.dials[1].accept()
    assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"]


def test_an_order_ends_a_wait_or_moves_it() -> None:
    world = World()
    connection, transport = world.ready(reconnect=ReconnectRequest(min_delay=600, max_delay=600))
    transport.close_with(1001)
    world.order(connection, delay_s=5)
    began = world.loop.now
    assert world.next_dial().began_at == began + 5
    world.dialler.dials[-1].fail()
    world.loop.advance()
    world.order(connection)
    assert world.next_dial(0.1).began_at < began + 5.1


# The end.


def _phase(world: World, phase: str) -> tuple[Any, Any]:
    """Bring a connection that was ready into `phase`; return it and its last transport."""
    connection, transport = world.ready()
    if phase == "connected":
        return connection, transport
    if phase == "letting go":
        world.order(connection)
        return connection, transport
    transport.close_with(1001)
    if phase == "waiting":
        return connection, transport
    world.redials.configure(RedialLimits(rate=0.001, burst=1))
    other, lost = world.ready()
    lost.close_with(1001)
    world.loop.advance(2)  # one of the two has its turn
    dialling, limited = sorted((connection, other), key=lambda one: one.kept_state is KeptState.LIMITED)
    if phase == "limited":
        assert limited.kept_state is KeptState.LIMITED
        return limited, transport
    assert dialling.kept_state is KeptState.DIALLING
    return dialling, world.dialler.dials[-1]


@pytest.mark.parametrize("phase", ["waiting", "limited", "dialling"])
@pytest.mark.parametrize("how", ["terminate", "stop"])
def test_terminate_without_a_ready_socket_is_the_end_at_once_and_no_socket_follows(phase: str, how: str) -> None:  # 14
    world = World()
    connection, _ = _phase(world, phase)
    dials = len(world.dialler.dials)
    if how == "terminate":
        connection.terminate(None, None, 9)
    else:
        connection.stop(1001, "the worker is being killed")
    assert world.kinds(connection)[-2:] == ["onDisconnect", "onTerminate"]
    end = world.event("onTerminate")
    reason = "terminated while reconnecting" if how == "terminate" else "the worker is being killed"
    assert (end["code"], end["wasClean"], end["reason"]) == (1006, False, reason)
    assert [type(answer) for answer in world.answers] == [TerminateDone] * (how == "terminate")
    if phase == "dialling":
        assert world.dialler.dials[-1].cancelled
    world.redials.configure(RedialLimits(rate=0))
    world.loop.advance(60)
    assert len([dial for dial in world.dialler.dials[dials:] if not dial.cancelled]) <= 1, "of the other one, if any"
    assert connection.kept_state is KeptState.CLOSED and connection.id in world.forgotten


def test_terminate_before_it_was_ever_ready_is_an_error_as_ever() -> None:
    for options in ({}, {"reconnect": RETRY}):
        world = World()
        connection = world.open(request=3, **options)
        connection.terminate(None, None, 9)
        assert world.kinds() == ["onError", "onTerminate"]
        assert world.event("onError")["errors"][0]["errCode"] == ErrCode.TERMINATED_WHILE_CONNECTING
        kinds = [type(answer) for answer in world.answers]
        assert sorted(kinds, key=str) == sorted([TerminateDone, OpenFailed], key=str)
        assert world.dialler.dials[0].cancelled


def test_terminate_of_a_ready_one_closes_it_and_whatever_the_server_says_no_dial_follows() -> None:
    for code in (1000, 1001, 1012, None):
        world = World()
        connection, transport = world.ready()
        connection.terminate(3000, "bye", 9)
        assert transport.closed_with == 3000 and world.updates.get(1) is not None
        transport.close_with(code)
        assert world.kinds() == ["onOpen", "onTerminate"]
        world.loop.advance(3600)
        assert len(world.dialler.dials) == 1


def test_terminate_while_a_socket_is_let_go_for_another_one_is_the_end() -> None:
    world = World()
    connection, transport = _phase(world, "letting go")
    connection.terminate(None, None, 9)
    transport.close_with(1000)
    assert world.kinds() == ["onOpen", "onTerminate"]
    world.loop.advance(60)
    assert len(world.dialler.dials) == 1


@rounds(1_000, 20_000)
def test_terminate_and_the_end_of_a_socket_at_once_are_one_end(rounds: int) -> None:  # 15
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    random.seed(seed)
    for _ in range(rounds):
        _terminate_at_random(rng)


def _terminate_at_random(rng: random.Random) -> None:
    world = World()
    connection, transport = world.ready(reconnect=ReconnectRequest(min_delay=0.05, max_delay=0.1))
    ends = [
        lambda: transport.close_with(rng.choice((1000, 1001, 1011, 4401, 1009))),
        lambda: transport.lose(None),
        lambda: transport.lose(ConnectionResetError()),
        lambda: world.order(connection),
        lambda: transport.protocol.data_received(b"\xff\xff"),
    ]
    happen = [rng.choice(ends) for _ in range(rng.randrange(1, 3))]
    happen.append(lambda: connection.terminate(None, None, 9))
    rng.shuffle(happen)
    for one in happen:
        world.loop.call_later(rng.choice((0.0, 0.0, rng.random() * 0.3)), one)
    for _ in range(20):
        world.loop.advance(0.05)
        for dial in world.dialler.dials[1:]:
            if not dial.ended and not dial.cancelled and rng.random() < 0.3:
                if rng.random() < 0.5:
                    dial.accept()
                else:
                    dial.fail()
    world.loop.advance(10)
    kinds = world.kinds()
    assert kinds.count("onTerminate") == 1 and kinds[-1] == "onTerminate", kinds
    assert [type(answer) for answer in world.answers] == [TerminateDone]
    dials = len(world.dialler.dials)
    world.loop.advance(60)
    assert len(world.dialler.dials) == dials and world.dense()


def test_the_late_end_of_a_dead_socket_is_nobodys() -> None:  # 16
    world = World()
    connection, first = world.ready()
    first.close_with(1001)
    second = world.next_dial().accept()
    world.loop.advance()
    assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"]
    for late in (
        lambda: first.protocol.data_received(b"\x81\x01x"),
        first.protocol.eof_received,
        lambda: first.protocol.connection_lost(ConnectionResetError()),
        lambda: first.protocol.connection_lost(None),
    ):
        late()
        world.loop.advance()
    assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"]
    second.say("still here")
    assert world.kinds()[-1] == "onMessage" and connection.state.value == "Connected"


# What is told of the gap, and what another process takes over.


def test_the_gap_begins_with_the_last_message_or_with_the_socket_if_none_came() -> None:
    world = World()
    _, transport = world.ready()
    transport.say("1")
    world.loop.advance()
    at = world.updates[1].last_message_at_us
    transport.close_with(1001)
    world.next_dial().accept()
    world.loop.advance()
    assert at is not None and world.event("onReconnect")["gapFrom"] == rfc3339(at)
    assert world.event("onDisconnect")["lastMessageAt"] == rfc3339(at)
    second = world.dialler.dials[-1].transport
    opened_at = world.updates[1].kept.socket_opened_at_us  # type: ignore[union-attr]
    second.close_with(1001)
    world.next_dial().accept()
    assert world.event("onReconnect")["gapFrom"] == rfc3339(opened_at or 0)


def test_another_process_goes_on_with_its_numbers_and_its_gap() -> None:
    world = World()
    _, transport = world.ready()
    transport.say("1")
    world.loop.advance()
    held = world.updates[1]
    lost = World()
    again = lost.open(resumed=held)
    lost.dialler.dials[0].accept()
    assert lost.kinds() == ["onReconnect"]
    assert lost.seqs == [(1, 3)] and held.seq == 2
    back = lost.event("onReconnect")
    assert (back["socket"], back["restarted"]) == (2, True)
    assert again.messages_in == 1
    lost.dialler.dials[-1].transport.close_with(1001)
    lost.next_dial().accept()
    assert not lost.event("onReconnect")["restarted"], "that was the process before"


@pytest.mark.parametrize("phase", ["connected", "letting go", "waiting", "limited", "dialling"])
def test_a_drain_leaves_it_to_the_next_process(phase: str) -> None:
    world = World()
    connection, transport = _phase(world, phase)
    connection.drain(1001, "drained")
    if phase == "connected":
        assert transport.closed_with == 1001 and not connection.at_rest
        transport.close_with(1001)
    if phase == "letting go":
        transport.close_with(1000)
    kinds = world.kinds(connection)
    assert kinds.count("onDisconnect") == 1 and kinds[-1] == "onDisconnect" and connection.at_rest
    record = world.updates[connection.id]
    assert record.status == "Reconnecting" and record.kept.down.phase == "blocked"  # type: ignore[union-attr]
    if phase in ("connected", "letting go"):
        lost = world.event("onDisconnect")
        assert (lost["cause"], lost["errors"][0]["errCode"]) == ("drained", ErrCode.WORKER_DRAINED)
        assert lost["nextAttemptAt"] is None
    world.redials.configure(RedialLimits(rate=0))
    world.loop.advance(60)
    assert world.kinds(connection) == kinds
