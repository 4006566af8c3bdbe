"""Kept connections in a world without an outside: what each end of a socket and of an attempt leads to, and when."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from mooring.bounds import HostLimit, RedialLimits
from mooring.connection.kept import LET_GO_S
from mooring.connection.kept_state import KeptState
from mooring.errors import ErrCode
from mooring.events import rfc3339
from mooring.kept_options import ReconnectRequest
from mooring.link.messages import Opened, OpenFailed, ReconnectDone, TerminateDone
from tests.conftest import rounds
from tests.workers.connection.world import World

RETRY = ReconnectRequest(first="retry")


@pytest.mark.parametrize("code", [1000, 1001, None, 1011, 1012, 1013])
def test_a_close_by_the_server_costs_one_disconnect_and_one_reconnect(code: int | None) -> None:  # 2
    world = World()
    connection, transport = world.ready()
    transport.close_with(code, "" if code is None else "because")
    assert world.kinds() == ["onOpen", "onDisconnect"] and connection.state.value == "Reconnecting"
    lost = world.event("onDisconnect")
    assert (lost["socket"], lost["code"], lost["cause"], lost["errors"]) == (1, code or 1005, "peer", [])
    assert lost["wasClean"] and lost["nextAttemptAt"] is not None
    world.next_dial().accept()
    assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"] and world.dense()
    back = world.event("onReconnect")
    assert (back["socket"], back["attempts"], back["restarted"], back["lost"], back["resumed"]) == (
        2, 1, False, None, None,
    )  # fmt: skip
    record = world.updates[1]
    assert record.status == "Connected" and record.kept is not None and record.kept.down is None
    assert (record.kept.socket, record.kept.reconnects) == (2, 1)


def test_a_cut_and_an_unanswered_ping_are_losses_that_say_so() -> None:
    world = World()
    _, transport = world.ready(ping_interval=5, ping_timeout=5)
    transport.lose(ConnectionResetError())
    world.loop.advance()
    lost = world.event("onDisconnect")
    assert (lost["code"], lost["wasClean"], lost["cause"]) == (1006, False, "lost")
    assert [error["errCode"] for error in lost["errors"]] == [ErrCode.CONNECTION_LOST]
    dial = world.next_dial()
    dial.accept()
    began = world.loop.now
    world.loop.advance(9.99)
    assert world.kinds()[-1] == "onReconnect"
    world.loop.advance(0.1)
    assert 10 <= world.loop.now - began < 11
    lost = world.event("onDisconnect")
    assert (lost["cause"], lost["errors"][0]["errCode"], lost["socket"]) == ("ping", ErrCode.PING_TIMEOUT, 2)
    assert world.kinds().count("onError") == 0


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4004])
def test_a_code_that_stops_ends_it_with_that_code_and_no_dial_follows(code: int) -> None:  # 3
    world = World()
    stops = ReconnectRequest(stop_codes=[4004]) if code == 4004 else True
    connection, transport = world.ready(reconnect=stops)
    transport.close_with(code, "no more")
    assert world.kinds() == ["onOpen", "onTerminate"]
    end = world.event("onTerminate")
    assert (end["code"], end["reason"], end["wasClean"]) == (code, "no more", True)
    world.loop.advance(3600)
    assert len(world.dialler.dials) == 1 and world.redials.waiting == 0
    assert connection.id in world.forgotten and world.loop.timers == 0


@pytest.mark.parametrize("bad", ["text", "frame"])
def test_what_the_server_sends_wrong_ends_it_unless_its_code_is_taken_out_of_those_that_stop(bad: str) -> None:
    payload, code, err_code = {
        "text": (b"\x81\x02\xff\xff", 1007, ErrCode.INVALID_DATA),
        "frame": (b"\xf1\x00", 1002, ErrCode.PROTOCOL_ERROR),
    }[bad]
    world = World()
    connection, transport = world.ready()
    transport.protocol.data_received(payload)
    assert transport.closed_with == code and connection.state.value == "Closing"
    transport.close_with(code)
    assert world.kinds() == ["onOpen", "onError", "onTerminate"]
    assert world.event("onError")["errors"][0]["errCode"] == err_code

    world = World()
    _, transport = world.ready(reconnect=ReconnectRequest(stop_codes=[]))
    transport.protocol.data_received(payload)
    assert transport.closed_with == code
    transport.close_with(code)
    world.next_dial().accept()
    assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"]
    lost = world.event("onDisconnect")
    assert (lost["cause"], lost["errors"][0]["errCode"]) == ("data", err_code)


@pytest.mark.parametrize("code", [1008, 4401, 4403])
def test_a_refusal_that_nothing_can_renew_is_the_end(code: int) -> None:  # 12
    world = World()
    _, transport = world.ready()
    transport.close_with(code)
    assert world.kinds() == ["onOpen", "onTerminate"] and world.event("onTerminate")["code"] == code


@pytest.mark.parametrize(
    ("status", "retried"), [(404, True), (429, True), (503, True), (401, False), (403, False), (410, False)]
)
def test_the_status_of_a_redial_says_whether_there_is_another(status: int, retried: bool) -> None:
    world = World()
    _, transport = world.ready()
    transport.close_with(1001)
    world.next_dial().fail(ErrCode.HANDSHAKE_STATUS, status)
    if retried:
        world.next_dial().accept()
        assert world.kinds() == ["onOpen", "onDisconnect", "onReconnect"]
        assert world.event("onReconnect")["attempts"] == 2
    else:
        assert world.kinds() == ["onOpen", "onDisconnect", "onError", "onTerminate"]
        assert world.event("onError")["errors"][0]["errCode"] == ErrCode.HANDSHAKE_STATUS
        end = world.event("onTerminate")
        assert (end["code"], end["wasClean"]) == (1006, False)


def test_what_a_failed_attempt_says_is_in_the_record_and_no_event() -> None:
    world = World()
    connection, transport = world.ready()
    transport.close_with(1001, "deploy")
    world.next_dial().fail(ErrCode.HANDSHAKE_STATUS, 503, retry_after_s=7.5)
    assert world.kinds() == ["onOpen", "onDisconnect"]
    kept = world.updates[1].kept
    assert kept is not None and kept.down is not None
    assert (kept.down.phase, kept.down.attempt, kept.down.retry_after_s) == ("waiting", 1, 7.5)
    assert kept.down.errors[0].err_code == ErrCode.HANDSHAKE_STATUS
    assert kept.down.next_attempt_at_us is not None
    assert world.metrics.redials == {"ready": 1, "refused": 1}
    assert connection.down is not None and connection.down.phase == "waiting"


def test_retry_after_is_a_floor_and_a_bare_429_or_1013_waits_longer() -> None:  # 10
    world = World()
    random.seed(1)
    _, transport = world.ready()
    transport.close_with(1001)
    for asked, least, most in ((7.0, 7.0, 8.0), (200_000.0, 3_600.0, 3_601.0)):
        world.next_dial().fail(ErrCode.HANDSHAKE_STATUS, 429, retry_after_s=asked)
        failed_at = world.loop.now
        waited = world.next_dial(4000).began_at - failed_at
        assert least <= waited <= most
        world.dialler.dials[-1].fail(ErrCode.HANDSHAKE_STATUS, 503)
    waits: list[float] = []
    for _ in range(300):
        fresh = World()
        _, transport = fresh.ready()
        transport.close_with(1013)
        lost_at = fresh.loop.now
        waits.append(fresh.next_dial().began_at - lost_at)
    assert 6 < max(waits) <= 8, "drawn as if three had failed before"


def test_a_server_that_accepts_and_closes_is_dialled_ever_slower_until_a_socket_has_lasted() -> None:  # 8
    random.seed(8)
    world = World()
    _, transport = world.ready()
    ends_at = world.loop.now + 600
    while True:
        transport.close_with(1001)
        dial = world.next_dial()
        if world.loop.now > ends_at:
            break
        transport = dial.accept()
        world.loop.advance()
    print(f"{len(world.dialler.dials)} dials in ten minutes")
    assert len(world.dialler.dials) <= 40

    waits = []
    transport = dial.accept()
    for _ in range(50):
        world.loop.advance(11)
        transport.close_with(1001)
        lost_at = world.loop.now
        waits.append(world.next_dial().began_at - lost_at)
        transport = world.dialler.dials[-1].accept()
    assert max(waits) <= 1.01, "each of them begins anew"


def test_one_that_is_lost_alone_is_back_in_half_a_second() -> None:  # 7
    random.seed(7)
    back = []
    for _ in range(200):
        world = World()
        _, transport = world.ready()
        world.loop.advance(60)
        transport.close_with(1001)
        lost_at = world.loop.now
        world.next_dial().accept()
        world.loop.advance()
        back.append(world.loop.now - lost_at)
    median, late = statistics.median(back), sorted(back)[189]
    print(f"median {median:.2f} s, 95th {late:.2f} s")
    assert median <= 0.6 and late <= 1.1


def test_a_slow_host_does_not_delay_another_one() -> None:  # 6
    random.seed(6)
    world = World(RedialLimits(hosts={"slow.test": HostLimit(rate=0.5, burst=1)}))
    for host in ("slow.test", "fast.test"):
        for _ in range(40):
            world.ready(url=f"ws://{host}/")
    began = world.loop.now
    for dial in list(world.dialler.dials):
        dial.transport.close_with(1001)
    for _ in range(70):
        world.loop.advance(0.1)
        for dial in world.dialler.dials[80:]:
            if not dial.ended:
                dial.accept()
    fast = [dial.began_at - began for dial in world.dialler.dials[80:] if "fast" in dial.url]
    slow = [dial for dial in world.dialler.dials[80:] if "slow" in dial.url]
    assert len(fast) == 40 and max(fast) < 2
    assert 3 <= len(slow) <= 5


def test_dials_in_flight_are_bounded() -> None:
    world = World(RedialLimits(rate=0, at_once=3))
    for _ in range(20):
        world.ready()
    for dial in list(world.dialler.dials):
        dial.transport.close_with(1001)
    world.loop.advance(5)
    assert len(world.dialler.dials) == 23 and world.redials.waiting == 17
    world.dialler.dials[20].accept()
    world.dialler.dials[21].fail()
    world.loop.advance()
    assert len(world.dialler.dials) == 25


def test_it_gives_up_after_being_down_for_so_long() -> None:
    world = World()
    connection, transport = world.ready(reconnect=ReconnectRequest(give_up_after=30))
    transport.close_with(1001)
    lost_at = world.loop.now
    while connection.state.value == "Reconnecting":
        for dial in world.dialler.dials[1:]:
            if not dial.ended:
                dial.fail()
        world.loop.advance(0.01)
    assert 29.9 < world.loop.now - lost_at < 30.1
    assert world.kinds() == ["onOpen", "onDisconnect", "onError", "onTerminate"]
    assert [error["errCode"] for error in world.event("onError")["errors"]] == [ErrCode.GAVE_UP, ErrCode.REFUSED]
    assert world.event("onTerminate")["code"] == 1006
    world.loop.advance(3600)
    assert world.loop.timers == 0


def test_a_dial_that_never_ends_is_given_up_with_the_rest() -> None:
    world = World()
    _, transport = world.ready(reconnect=ReconnectRequest(give_up_after=30))
    transport.close_with(1001)
    dial = world.next_dial()
    world.loop.advance(60)
    assert world.kinds()[-2:] == ["onError", "onTerminate"] and dial.cancelled


# The first dial.


def test_the_one_dial_of_fail_ends_as_ever() -> None:
    world = World()
    world.open(request=5)
    world.dialler.dials[0].fail()
    assert world.kinds() == ["onError", "onTerminate"]
    (answer,) = world.answers
    assert isinstance(answer, OpenFailed) and answer.errors[0].err_code == ErrCode.REFUSED


def test_retry_answers_when_its_first_attempt_has_ended_and_goes_on() -> None:
    world = World()
    world.open(request=5, reconnect=RETRY)
    world.dialler.dials[0].fail()
    assert world.kinds() == []
    assert world.answers == [Opened(5, world.outbox.number)]
    assert world.updates[1].status == "Connecting" and world.updates[1].kept.down.phase == "waiting"  # type: ignore[union-attr]
    world.next_dial().accept()
    assert world.kinds() == ["onOpen"]
    assert len(world.answers) == 1


def test_retry_fails_at_once_where_it_would_for_ever() -> None:
    world = World()
    world.open(request=5, reconnect=RETRY)
    world.dialler.dials[0].fail(ErrCode.POLICY_REFUSED)
    assert world.kinds() == ["onError", "onTerminate"]
    (answer,) = world.answers
    assert isinstance(answer, OpenFailed) and answer.policy


def test_retry_answers_while_it_still_waits_for_its_turn() -> None:
    world = World(RedialLimits(rate=0.01, burst=1))
    world.open(reconnect=RETRY)
    second = world.open(request=6, reconnect=RETRY, connect_timeout=3)
    assert second.kept_state is KeptState.LIMITED and world.answers == []
    world.loop.advance(3)
    assert [type(answer) for answer in world.answers] == [Opened]
    assert world.updates[2].kept.down.phase == "limited"  # type: ignore[union-attr]
    world.loop.advance(100)
    assert len(world.dialler.dials) == 2


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
