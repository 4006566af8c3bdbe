"""A recipe on one socket: the opening, the answers, what is remembered; and the presets against their vendors' transcripts."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.keep_alive import KeepAlive
from mooring.connection.matcher import Frame
from mooring.connection.recipe_compiler import compile_recipe
from mooring.connection.requests import Ids
from mooring.connection.session import (
    MAX_ECHOES,
    Action,
    Asked,
    Failed,
    Heard,
    Ready,
    Send,
    Session,
    Stopped,
    Unanswered,
)
from mooring.connection.template import Unfilled
from mooring.errors import Invalid
from mooring.kept_options import RecipeRequest
from tests.workers.connection.test_fragment import preset
from tests.workers.connection.test_pointer import JSON
from tests.workers.connection.test_recipe import DISCORD


class Peer:
    """Says to a session what a server says, and reads what it answers."""

    def __init__(
        self, recipe: Any, *, memory: dict[str, Any] | None = None, renewed: dict[str, Any] | None = None
    ) -> None:
        keep_alive: KeepAlive | None = None
        if isinstance(recipe, str):
            compiled = preset(recipe)
            recipe, keep_alive = compiled.recipe, compiled.keep_alive
        else:
            wrong: list[Invalid] = []
            recipe = compile_recipe(msgspec.convert(recipe, RecipeRequest), "/recipe", wrong)
            assert not wrong
        self.memory = {} if memory is None else memory
        secrets = {"feed": "F", "ha": "H", "slack": "S", "bot": "B"}
        self.session = Session(recipe, keep_alive, self.memory, renewed or {}, secrets, Ids(), 1)
        self.now = 0.0

    def says(self, value: Any) -> Heard:
        payload = (
            value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
        )
        return self.session.hear(Frame(payload, True), self.now)


def sent(actions: list[Action]) -> list[Any]:
    """Return the payloads of the frames that are sent, as JSON where they are."""
    found = []
    for action in actions:
        if isinstance(action, Send):
            try:
                found.append(json.loads(action.payload))
            except ValueError:
                found.append(action.payload.decode())
    return found


THREE = {
    "opening": [
        {"send": {"n": 1}, "expect": {"/ok": 1}, "timeout": 3},
        {"send": {"n": 2, "re": "${/id}"}, "expect": {"/ok": 2}},
        {"send": {"n": 3}},
    ]
}


def test_no_step_is_sent_before_the_one_before_it_is_answered() -> None:  # 19
    peer = Peer(THREE)
    assert sent(peer.session.begin(0)) == [{"n": 1}]
    assert (peer.session.step, peer.session.deadline, peer.session.ready) == (1, 3, False)
    assert peer.says({"data": 1}) == Heard([])
    peer.now = 1
    assert sent(peer.says({"ok": 1, "id": "x"}).actions) == [{"n": 2, "re": "x"}]
    assert peer.session.deadline == 11
    last = peer.says({"ok": 2}).actions
    assert sent(last) == [{"n": 3}]
    assert last[-1] == Ready(None)
    assert (peer.session.ready, peer.session.deadline) == (True, math.inf)
    assert peer.says({"ok": 2}) == Heard([])


def test_without_steps_it_is_ready_at_once_and_does_not_listen() -> None:
    peer = Peer({})
    assert peer.session.begin(0) == [Ready(None)]
    assert not peer.session.listens
    assert Peer({"stopWhen": ["x"]}).session.listens
    assert Peer("engine.io").session.listens


def test_a_step_that_is_not_answered_in_time_fails() -> None:  # 18
    peer = Peer(THREE)
    peer.session.begin(0)
    assert peer.session.late(2.9) == []
    (failed,) = peer.session.late(3)
    assert isinstance(failed, Failed)
    assert not failed.refused
    assert peer.session.late(4) == []


def test_a_step_that_is_refused_says_so() -> None:
    peer = Peer({"opening": [{"send": "AUTH", "expect": "OK", "fail": {"startsWith": "ERR"}}]})
    peer.session.begin(0)
    (failed,) = peer.says("ERR no").actions
    assert isinstance(failed, Failed)
    assert failed.refused


def test_a_value_that_is_missing_fails_the_attempt_and_is_named() -> None:
    peer = Peer({"renew": {"function": "f"}, "opening": [{"send": "a"}, {"send": "${token}"}]})
    actions = peer.session.begin(0)
    assert sent(actions) == ["a"]
    assert isinstance(actions[-1], Failed)
    assert "missing: token" in actions[-1].detail
    assert sent(Peer({"renew": {"function": "f"}, "opening": [{"send": "${token}"}]}, renewed={"token": "x"}).session.begin(0)) == ["x"]  # fmt: skip


def test_values_are_remembered_over_sockets_until_they_are_forgotten() -> None:
    memory: dict[str, Any] = {}
    for resumed in (False, True, False):
        peer = Peer(DISCORD, memory=memory)
        assert peer.session.begin(0) == []
        (first,) = sent(peer.says({"op": 10, "d": {"heartbeat_interval": 41_250}, "s": None}).actions)
        assert memory["interval"] == 41_250
        assert first["op"] == (6 if resumed else 2)
        assert first["d"]["token"] == "B"
        if resumed:
            assert first["d"] == {"token": "B", "session_id": "S1", "seq": 7}
            assert peer.says({"op": 0, "t": "RESUMED", "s": 8, "d": {}}).actions == [Ready(True)]
            assert sent(peer.says({"op": 1, "d": None}).actions) == [{"op": 1, "d": 8}], "null does not overwrite"
            assert peer.says({"op": 7, "d": None}).actions == [Asked(None, True)]
            assert peer.says({"op": 9, "d": False}).actions == [Asked(None, False)]
            assert "session" not in memory
        else:
            assert "session" not in memory
            ready = {"op": 0, "t": "READY", "s": 7, "d": {"session_id": "S1", "resume_gateway_url": "wss://r.test"}}
            assert peer.says(ready).actions == [Ready(False)]
            assert (memory["session"], memory["seq"], memory["gateway"]) == ("S1", 7, "wss://r.test")


def test_what_is_too_large_is_not_remembered_nor_is_an_older_one() -> None:
    peer = Peer({"remember": {"a": {"pointer": "/a"}}})
    peer.says({"a": "x"})
    assert peer.memory == {"a": "x"}
    peer.says({"b": 1})
    assert peer.memory == {"a": "x"}
    peer.says({"a": "x" * 5000})
    assert peer.memory == {}


def test_answers_are_sent_from_the_handshake_on_and_may_be_hidden() -> None:
    recipe = {
        "opening": [{"expect": "hello"}],
        "answers": [
            {"when": "ping", "send": "pong", "hide": True},
            {"when": {"/id": {"exists": True}}, "send": {"ack": "${/id}"}, "after": "stored"},
            {"when": {"/bad": {"exists": True}}, "send": {"re": "${/gone}"}},
            {"when": {"/id": 9}, "send": "nine", "hide": True},
        ],
    }
    peer = Peer(recipe)
    assert peer.session.begin(0) == []
    assert peer.says("ping") == Heard([Send(b"pong", False)], hidden=True)
    assert peer.says({"id": 1.5}) == Heard([Send(b'{"ack":1.5}', False, stored=True)])
    assert peer.says({"bad": 1}) == Heard([Unanswered("/recipe/answers/2", Unfilled("/gone"))])
    assert peer.says({"id": 9}) == Heard([Send(b'{"ack":9}', False, stored=True), Send(b"nine", False)]), "it is stored"
    assert peer.says("hello").actions == [Ready(None)]
    assert peer.says("ping").hidden


def test_a_peer_that_sends_every_answer_back_is_left() -> None:
    peer = Peer({"answers": [{"when": {"startsWith": "p"}, "send": "pong"}]})
    assert sent(peer.says("ping").actions) == ["pong"]
    for _ in range(MAX_ECHOES - 1):
        assert sent(peer.says("pong").actions) == ["pong"]
    (stopped,) = peer.says("pong").actions
    assert stopped == Stopped("/recipe/answers/0", "the peer sends each answer back")
    peer = Peer({"answers": [{"when": {"startsWith": "p"}, "send": "pong"}]})
    for _ in range(5):
        for _ in range(MAX_ECHOES - 1):
            assert sent(peer.says("pong").actions) == ["pong"]
        peer.says("data")  # in a row: this one lies between
    peer = Peer({"answers": [{"when": {"startsWith": "p"}, "send": name} for name in ("pong", "pang")]})
    waiting = sent(peer.says("ping").actions)
    said: list[Action] = []
    echoes = 0
    while not any(isinstance(one, Stopped) for one in said):
        said = peer.says(waiting.pop(0)).actions
        waiting += sent(said)  # each echo brings two more
        echoes += 1
    assert echoes == MAX_ECHOES


def test_a_rule_that_stops_is_named_and_beats_all_others() -> None:
    recipe = {
        "answers": [{"when": {"/t": 1}, "send": "x"}],
        "reconnectWhen": [{"when": {"/t": 1}}],
        "stopWhen": ["never", {"/t": 1}],
    }
    (stopped,) = Peer(recipe).says({"t": 1}).actions
    assert isinstance(stopped, Stopped)
    assert stopped.rule == "/recipe/stopWhen/1"


def test_the_peer_may_ask_for_another_url() -> None:
    recipe = {
        "reconnectWhen": [{"when": {"/t": 1}, "urlFrom": "/url", "delay": "none"}, {"when": {"/t": {"in": [1, 2]}}}]
    }
    assert Peer(recipe).says({"t": 1, "url": "wss://n.test/"}).actions == [Asked("wss://n.test/", True)]
    assert Peer(recipe).says({"t": 1}).actions == [Asked("", True)], "which is not valid: the attempt fails"
    assert Peer(recipe).says({"t": 2}).actions == [Asked(None, False)]


# The presets (46): what each vendor documents, and what we say to it.


def test_graphql_transport_ws() -> None:
    peer = Peer("graphql-transport-ws")
    assert sent(peer.session.begin(0)) == [{"type": "connection_init", "payload": {"token": "F"}}]
    assert sent(peer.says({"type": "ping"}).actions) == [{"type": "pong"}]
    actions = peer.says({"type": "connection_ack"}).actions
    assert sent(actions) == [
        {"id": "mooring-1", "type": "subscribe", "payload": {"query": "subscription { a }"}},
    ]
    assert actions[-1] == Ready(None)
    assert peer.says({"type": "ping"}).hidden
    assert peer.says({"id": "mooring-1", "type": "next", "payload": {"data": {"a": 1}}}) == Heard([])
    compiled = preset("graphql-transport-ws")
    assert compiled.keep_alive is not None
    assert compiled.keep_alive.expect is not None
    assert compiled.keep_alive.expect.matches(Frame(b'{"type":"pong"}', True))


def test_phoenix() -> None:
    peer = Peer("phoenix")
    ((join_ref, ref, topic, event, payload),) = sent(peer.session.begin(0))
    assert (join_ref == ref, topic, event, payload) == (True, "room:lobby", "phx_join", {})
    assert peer.says([None, "h", "phoenix", "phx_reply", {"status": "ok", "response": {}}]).actions == []
    ok = [join_ref, ref, "room:lobby", "phx_reply", {"status": "ok", "response": {}}]
    assert peer.says(ok).actions == [Ready(None)]
    assert peer.says([join_ref, None, "room:lobby", "new_msg", {"body": "x"}]).actions == []
    assert peer.says([join_ref, None, "room:other", "phx_close", {}]).actions == []
    assert peer.says([join_ref, join_ref, "room:lobby", "phx_error", {}]).actions == [Asked(None, False)]
    peer = Peer("phoenix")
    peer.session.begin(0)
    (failed,) = peer.says(["join-1", "join-1", "room:lobby", "phx_reply", {"status": "error", "response": {}}]).actions
    assert isinstance(failed, Failed)
    assert failed.refused


def test_slack_socket_mode() -> None:
    peer = Peer("slack-socket-mode", renewed={"url": "wss://wss.slack.test/link/?ticket=1"})
    assert peer.session.begin(0) == []
    hello = {"type": "hello", "num_connections": 1, "connection_info": {"app_id": "A"}, "debug_info": {"host": "h"}}
    assert peer.says(hello).actions == [Ready(None)]
    envelope = {"envelope_id": "57d6", "type": "events_api", "accepts_response_payload": False, "payload": {}}
    assert peer.says(envelope) == Heard([Send(b'{"envelope_id":"57d6"}', False, stored=True)])
    for reason in ("warning", "refresh_requested"):
        assert peer.says({"type": "disconnect", "reason": reason, "debug_info": {}}).actions == [Asked(None, True)]
    (stopped,) = peer.says({"type": "disconnect", "reason": "link_disabled", "debug_info": {}}).actions
    assert isinstance(stopped, Stopped)


def test_home_assistant() -> None:
    peer = Peer("home-assistant")
    assert peer.session.begin(0) == []
    version = {"ha_version": "2021.5.3"}
    assert sent(peer.says({"type": "auth_required", **version}).actions) == [{"type": "auth", "access_token": "H"}]
    assert sent(peer.says({"type": "auth_ok", **version}).actions) == [
        {"id": 1, "type": "subscribe_events", "event_type": "state_changed"}
    ]
    assert peer.says({"id": 1, "type": "result", "success": True, "result": None}).actions == [Ready(None)]
    compiled = preset("home-assistant")
    assert compiled.keep_alive is not None
    assert compiled.keep_alive.send is not None
    assert peer.session.fill(compiled.keep_alive.send) == b'{"id":2,"type":"ping"}', "ids go up, whoever sends"
    peer = Peer("home-assistant")
    peer.session.begin(0)
    peer.says({"type": "auth_required"})
    (failed,) = peer.says({"type": "auth_invalid", "message": "Invalid password"}).actions
    assert isinstance(failed, Failed)
    assert failed.refused


def test_eth_subscribe_by_jsonrpc() -> None:
    peer = Peer("jsonrpc")
    assert sent(peer.session.begin(0)) == [
        {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}
    ]
    head = {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"result": {}, "subscription": "0x9ce"}}
    assert peer.says(head).actions == []
    assert peer.says({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}}).actions == []
    assert peer.says({"id": 1, "jsonrpc": "2.0", "result": "0x9ce"}).actions == [Ready(None)]


def test_engine_io() -> None:
    peer = Peer("engine.io")
    assert peer.session.begin(0) == []
    assert sent(peer.says('0{"sid":"lv_VI97","upgrades":[],"pingInterval":25000,"pingTimeout":20000}').actions) == [
        '40{"token":"F"}'
    ]
    assert peer.says("2") == Heard([Send(b"3", False)], hidden=True)
    assert peer.says('40{"sid":"wZX3oN0bSVIhsaknAAAI"}').actions == [Ready(None)]
    assert peer.says('42["hey","Jude"]') == Heard([])
    assert peer.says("41").actions == [Asked(None, False)]
    peer = Peer("engine.io")
    peer.session.begin(0)
    peer.says("0{}")
    (failed,) = peer.says('44{"message":"Not authorized"}').actions
    assert isinstance(failed, Failed)
    assert failed.refused


@pytest.mark.parametrize("name", ["graphql-transport-ws", "phoenix", "slack-socket-mode", "home-assistant", "jsonrpc"])
@given(messages=st.lists(st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()), max_size=10))
def test_whatever_a_peer_says_is_heard(name: str, messages: list[bytes]) -> None:
    peer = Peer(name)
    peer.session.begin(0)
    for message in messages:
        assert isinstance(peer.says(message), Heard)
        peer.session.late(5)
