"""The application's own heartbeat."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.keep_alive import KeepAlive, compile_keep_alive
from mooring.connection.matcher import Frame
from mooring.connection.template import Values
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest
from tests.workers.connection.test_pointer import JSON


def compiled(keep_alive: Any) -> KeepAlive:
    wrong: list[Invalid] = []
    made = compile_keep_alive(msgspec.convert(keep_alive, KeepAliveRequest), "/keepAlive", wrong)
    assert not wrong
    return made


def test_a_heartbeat_of_ours_has_a_timeout_as_long_as_its_interval() -> None:
    made = compiled({"send": {"id": "${nextId}", "type": "ping"}, "expect": {"/type": "pong"}, "interval": 20})
    assert (made.interval_s, made.timeout_s, made.within_s, made.when_idle) == (20, 20, 0, False)
    assert made.send is not None
    assert made.send.fill(Values(next_id=5)) == b'{"id":5,"type":"ping"}'
    assert made.expect is not None
    assert made.uses.json == ["/keepAlive/expect"]
    binary = compiled({"sendBase64": "wAA=", "expect": {"base64": "0AA="}, "interval": 1, "timeout": 0.1})
    assert binary.send is not None
    assert binary.send.binary
    assert binary.send.fill(Values()) == b"\xc0\x00"
    assert binary.timeout_s == 0.1


def test_the_heartbeats_of_the_peer_may_be_hidden_and_awaited() -> None:
    made = compiled({"hide": ["2", {"/type": "ka"}], "within": 45})
    assert made.hides(Frame(b"2", True))
    assert made.hides(Frame(b'{"type":"ka"}', True))
    assert not made.hides(Frame(b"42", True))
    assert (made.send, made.within_s) == (None, 45)


def test_the_interval_that_the_server_tells_is_held_within_its_bounds() -> None:
    made = compiled({"send": "x", "interval": 30, "intervalFrom": "${hello.interval}", "unit": "ms"})
    assert made.interval_name == "hello.interval"
    assert made.uses.names == {"hello.interval": "/keepAlive/intervalFrom"}
    assert made.told_interval_s(41_250) == 41.25
    assert made.told_interval_s("18000") == 18
    assert made.told_interval_s(5) == 1
    assert made.told_interval_s(1e300) == made.told_interval_s(10**9) == 86_400
    for value in (None, "soon", True, [1], {}, math.nan, 10**400):
        assert made.told_interval_s(value) == 30


@pytest.mark.parametrize(
    ("keep_alive", "places"),
    [
        ({}, ["/keepAlive"]),
        ({"interval": 20}, ["/keepAlive"]),
        ({"send": "x"}, ["/keepAlive/interval"]),
        ({"send": "x", "interval": 0.5}, ["/keepAlive/interval"]),
        ({"send": "x", "interval": 86_401}, ["/keepAlive/interval"]),
        ({"send": "x", "interval": 1, "timeout": 0}, ["/keepAlive/timeout"]),
        ({"send": "x", "interval": 1, "within": 0.05}, ["/keepAlive/within"]),
        ({"within": math.nan}, ["/keepAlive/within"]),
        ({"hide": ["x"], "expect": "y", "whenIdle": True, "intervalFrom": "${a}"}, ["/keepAlive/expect", "/keepAlive/whenIdle", "/keepAlive/intervalFrom"]),
        ({"hide": ["x"] * 17}, ["/keepAlive/hide"]),
        ({"hide": [{}]}, ["/keepAlive/hide/0"]),
        ({"send": "${/id}", "interval": 1}, ["/keepAlive/send"]),
        ({"send": "x", "interval": 1, "intervalFrom": "a"}, ["/keepAlive/intervalFrom"]),
        ({"send": "x", "interval": 1, "intervalFrom": "${nextId}"}, ["/keepAlive/intervalFrom"]),
        ({"send": "x", "interval": 1, "intervalFrom": "${a|1}"}, ["/keepAlive/intervalFrom"]),
        ({"send": "x" * 70_000, "interval": 1}, ["/keepAlive"]),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_named_by_its_place(keep_alive: Any, places: list[str]) -> None:
    wrong: list[Invalid] = []
    compile_keep_alive(msgspec.convert(keep_alive, KeepAliveRequest), "/keepAlive", wrong)
    assert [one.pointer for one in wrong] == places


@given(JSON, st.lists(st.text() | st.lists(JSON)), JSON)
def test_any_heartbeat_is_compiled_or_refused_and_any_interval_is_within_its_bounds(
    send: Any, hide: list[Any], value: Any
) -> None:
    wrong: list[Invalid] = []
    request = msgspec.convert({"send": send, "interval": 5, "hide": hide, "intervalFrom": "${a}"}, KeepAliveRequest)
    assert 1 <= compile_keep_alive(request, "/keepAlive", wrong).told_interval_s(value) <= 86_400 or wrong
