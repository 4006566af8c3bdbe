"""Requests over a connection: which message is the reply to which."""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.matcher import Frame
from mooring.connection.requests import (
    PRESETS,
    Asked,
    Ids,
    Protocol,
    Refused,
    Reply,
    Requests,
    compile_requests,
)
from mooring.errors import Invalid
from mooring.kept_options import RequestsRequest
from tests.workers.connection.test_pointer import JSON


def protocol(request: str | dict[str, Any]) -> Protocol:
    wrong: list[Invalid] = []
    made = compile_requests(
        request if isinstance(request, str) else msgspec.convert(request, RequestsRequest), "/requests", wrong
    )
    assert made is not None
    assert not wrong
    return made


def requests(request: str | dict[str, Any] = "jsonrpc", **keys: Any) -> Requests:
    return Requests(protocol(request), Ids(), **keys)


def frame(value: Any) -> Frame:
    return Frame(json.dumps(value).encode(), True)


def asked(answer: Asked | Refused | None) -> Asked:
    assert isinstance(answer, Asked)
    return answer


def test_a_thousand_replies_in_any_order_find_whoever_asked() -> None:  # 39
    mine = requests()
    ids = {}
    for number in range(1000):
        answer = asked(mine.ask(number, json.dumps({"method": "m", "n": number}).encode(), 0, 10))
        assert answer.payload is not None
        assert json.loads(answer.payload) == {"method": "m", "n": number, "id": answer.id}
        ids[number] = answer.id
    assert mine.ask("more", b"{}", 0, 10) is Refused.LIMIT
    order = list(ids)
    random.Random(39).shuffle(order)
    for number in order:
        assert mine.reply(frame({"id": ids[number], "result": number})) == Reply(number, False)
    assert (mine.pending, mine.late_replies, mine.next_deadline) == (0, 0, math.inf)


def test_when_the_socket_ends_all_are_lost_and_a_late_reply_is_an_ordinary_message() -> None:  # 39
    mine = requests()
    first = asked(mine.ask("a", b"{}", 0, 10))
    mine.ask("b", b"{}", 0, 10)
    assert mine.lost() == [("a", True), ("b", True)]
    assert mine.pending == 0
    assert mine.reply(frame({"id": first.id, "result": 1})) is None
    assert mine.late_replies == 1
    assert asked(mine.ask("c", b"{}", 0, 10)).id == 3, "ids go on over sockets"


def test_a_request_of_the_peer_with_the_same_id_is_not_taken_for_the_reply() -> None:  # 40
    mine = requests()
    id_ = asked(mine.ask("a", b"{}", 0, 10)).id
    assert mine.reply(frame({"id": id_, "method": "ping"})) is None
    assert (mine.pending, mine.late_replies) == (1, 0)
    assert mine.reply(frame({"id": id_, "error": {"code": -1}})) == Reply("a", True)


def test_before_the_first_request_no_message_is_parsed() -> None:
    seen = frame({"id": 1})
    assert requests().reply(seen) is None
    assert not seen.parsed


@pytest.mark.parametrize(
    ("preset", "body", "sent", "good", "bad", "other"),
    [
        (
            "jsonrpc",
            b'{"jsonrpc":"2.0","method":"eth_subscribe","params":["newHeads"]}',
            b'{"jsonrpc":"2.0","method":"eth_subscribe","params":["newHeads"],"id":1}',
            {"jsonrpc": "2.0", "id": 1, "result": "0x9"},
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}},
            {"jsonrpc": "2.0", "method": "eth_subscription", "params": {}},
        ),
        (
            "home-assistant",
            b'{"type":"get_states"}',
            b'{"type":"get_states","id":1}',
            {"id": 1, "type": "result", "success": True, "result": None},
            {"id": 1, "type": "result", "success": False, "error": {"code": "unknown"}},
            {"id": 1, "type": "event", "event": {}},
        ),
        (
            "cdp",
            b'{"method":"Page.enable"}',
            b'{"method":"Page.enable","id":1}',
            {"id": 1, "result": {}},
            {"id": 1, "error": {"message": "x"}},
            {"method": "Page.loadEventFired", "params": {}},
        ),
        (
            "ocpp",
            b'[2,"","Heartbeat",{}]',
            b'[2,"1","Heartbeat",{}]',
            [3, "1", {"currentTime": "x"}],
            [4, "1", "InternalError", "", {}],
            [2, "1", "Reset", {"type": "Soft"}],
        ),
        (
            "phoenix",
            b'["1",null,"room:1","new_msg",{}]',
            b'["1","1","room:1","new_msg",{}]',
            ["1", "1", "room:1", "phx_reply", {"status": "ok", "response": {}}],
            ["1", "1", "room:1", "phx_reply", {"status": "error", "response": {}}],
            ["1", "1", "room:1", "presence_diff", {}],
        ),
    ],
)
def test_each_preset_knows_its_protocol(preset: str, body: bytes, sent: bytes, good: Any, bad: Any, other: Any) -> None:
    for reply, failed in ((good, False), (bad, True)):
        mine = requests(preset)
        assert asked(mine.ask("a", body, 0, 10)).payload == sent
        assert mine.reply(frame(other)) is None
        assert mine.late_replies == 0
        assert mine.reply(frame(reply)) == Reply("a", failed)
    assert set(PRESETS) == {"jsonrpc", "home-assistant", "cdp", "ocpp", "phoenix"}


def test_an_id_of_the_callers_own_is_kept_unless_it_is_pending() -> None:
    mine = requests({"id": "/req_id", "reply": "/req_id"})
    assert asked(mine.ask("a", b'{"req_id": "mine", "x": 1.10}', 0, 10)).payload == b'{"req_id": "mine", "x": 1.10}'
    assert mine.ask("b", b'{"req_id":"mine"}', 0, 10) is Refused.ID_IN_USE
    assert asked(mine.ask("b", b'{"req_id":2}', 0, 10)).id == 2
    assert asked(mine.ask("c", b"{}", 0, 10)).id == 1
    assert asked(mine.ask("d", b"{}", 0, 10)).id == 3, "2 is pending"
    assert asked(mine.ask("e", b'{"req_id":null}', 0, 10)).id == 4
    assert mine.reply(frame({"req_id": "2"})) is None, 'the text "2" is not the number'
    assert mine.reply(frame({"req_id": 2.0})) == Reply("b", False)
    assert mine.reply(frame({"req_id": "mine"})) == Reply("a", False)


@pytest.mark.parametrize("body", [b"[]", b"5", b"", b"{", b'{"id":[1]}', b'{"id":{}}', b'{"id":true}', b"\xff"])
def test_a_message_without_a_place_for_an_id_is_refused(body: bytes) -> None:
    mine = requests()
    assert mine.ask("a", body, 0, 10) is Refused.NO_PLACE
    assert mine.pending == 0


def test_one_at_a_time_waits_for_its_turn_within_its_own_time() -> None:
    mine = requests("ocpp")
    body = b'[2,"","Heartbeat",{}]'
    first = asked(mine.ask("a", body, 0, 10))
    assert asked(mine.ask("b", body, 0, 10)).payload is None
    assert asked(mine.ask("c", body, 1, 2)).payload is None
    assert asked(mine.ask("d", body, 1, 10)).payload is None
    assert mine.turn() is None
    assert mine.reply(frame([3, "2", {}])) is None, "it was not even written"
    assert mine.next_deadline == 3
    assert mine.expire(3) == ["c"]
    assert mine.turn() is None
    assert mine.reply(frame([3, first.id, {}])) == Reply("a", False)
    assert mine.turn() == ("b", b'[2,"2","Heartbeat",{}]')
    assert mine.turn() is None
    assert mine.lost() == [("b", True), ("d", False)], "what was not begun may be done again"
    assert asked(mine.ask("e", body, 5, 10)).payload is not None


def test_a_request_ends_at_its_deadline_or_when_nobody_waits_for_it() -> None:
    mine = requests()
    for name, timeout_s in (("a", 5), ("b", 1), ("c", 3)):
        mine.ask(name, b"{}", 100, timeout_s)
    assert mine.expire(100.9) == []
    assert mine.expire(103) == ["b", "c"]
    mine.cancel("a")
    mine.cancel("a")
    assert (mine.pending, mine.next_deadline) == (0, math.inf)


def test_what_was_answered_leaves_nothing_behind() -> None:
    mine = requests()
    for number in range(5000):
        id_ = asked(mine.ask(number, b"{}", number / 1000, 600)).id
        mine.reply(frame({"id": id_, "result": 0}))
    assert len(mine._deadlines) < 100


def test_a_thousand_requests_cost_no_more_each_than_ten() -> None:
    def cost(count: int) -> float:
        mine = requests("ocpp", max_pending=count)
        began = time.process_time()
        for number in range(count):
            mine.ask(number, b'[2,"","H",{}]', 0, 10)
        for number in range(count):
            mine.reply(frame([3, str(number + 1), {}]))
            mine.turn()
        assert mine.pending == 0
        return (time.process_time() - began) / count

    assert any(cost(4000) < 20 * max(min(cost(40) for _ in range(5)), 1e-6) for _ in range(10))


def test_ids_go_on_where_a_dead_worker_cannot_have_been() -> None:
    assert [Ids().take() for _ in range(2)] == [1, 1]
    ids = Ids(socket=3)
    assert [ids.take(), ids.take()] == [3 * 65_536, 3 * 65_536 + 1]
    assert Ids(socket=32_767).take() < 2**31
    assert Ids(socket=32_768).take() == 1, "then from the start: each fits 31 bits"


@pytest.mark.parametrize(
    ("request_", "places"),
    [
        ("soap", ["/requests"]),
        ({"id": "id", "reply": "/id"}, ["/requests/id"]),
        ({"id": "/id", "reply": ""}, ["/requests/reply"]),
        ({"id": "/id", "reply": "/id", "when": {}, "error": "/e~"}, ["/requests/when", "/requests/error"]),
        ({"id": "/id", "reply": "/id", "error": {"e": 1}}, ["/requests/error/e"]),
    ],
)
def test_what_is_not_valid_is_named_by_its_place(request_: Any, places: list[str]) -> None:
    wrong: list[Invalid] = []
    if isinstance(request_, dict):
        request_ = msgspec.convert(request_, RequestsRequest)
    compile_requests(request_, "/requests", wrong)
    assert [one.pointer for one in wrong] == places


@given(
    st.lists(st.binary(max_size=12) | JSON.map(lambda value: json.dumps(value).encode()), max_size=20),
    st.sampled_from(sorted(PRESETS)),
)
def test_any_body_is_taken_or_refused_and_any_message_is_a_reply_or_not(bodies: list[bytes], preset: str) -> None:
    mine = requests(preset)
    for number, body in enumerate(bodies):
        answer = mine.ask(number, body, 0, 10)
        assert isinstance(answer, (Asked, Refused))
        mine.reply(Frame(body, True))
    assert len(mine.lost()) <= len(bodies)
