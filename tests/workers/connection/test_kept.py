"""Kept connections in a world without an outside: what each end of a socket and of an attempt leads to, and when."""

from __future__ import annotations

import random
import statistics

import pytest

from mooring.bounds import HostLimit, RedialLimits
from mooring.connection.kept_state import KeptState
from mooring.errors import ErrCode
from mooring.kept_options import ReconnectRequest
from mooring.link.messages import Opened, OpenFailed
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
