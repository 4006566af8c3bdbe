"""Matchers: which frame is meant."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.matcher import MAX_TERMS, NEVER, Frame, Matcher, compile_matcher
from mooring.connection.pointer import MISSING
from mooring.errors import Invalid
from tests.workers.connection.test_pointer import JSON


def compiled(request: Any) -> Matcher:
    wrong: list[Invalid] = []
    matcher = compile_matcher(request, "/when", wrong)
    assert not wrong
    return matcher


def matches(request: Any, payload: str | bytes, *, is_text: bool = True) -> bool:
    return compiled(request).matches(Frame(payload.encode() if isinstance(payload, str) else payload, is_text))


@pytest.mark.parametrize(
    ("request_", "payload", "expected"),
    [
        ("pong", "pong", True),
        ("pong", "pong\n", False),
        ("", "", True),  # an empty message
        ("é", "é", True),
        ({"startsWith": "0"}, '0{"sid":"x"}', True),
        ({"startsWith": "0"}, "40", False),
        ({"contains": "ér"}, "une série", True),
        ({"contains": "z"}, "une série", False),
        ({"base64": "0AA="}, b"\xd0\x00", True),
        ({"base64": "0AA="}, b"\xd0\x00 and more", True),
        ({"base64": "0AA="}, b"\xd0", False),
        (["2", {"startsWith": "4"}, {"/a": 1}], "42", True),
        (["2", {"startsWith": "4"}, {"/a": 1}], "2", True),
        (["2", {"startsWith": "4"}, {"/a": 1}], '{"a":1}', True),
        (["2", {"startsWith": "4"}, {"/a": 1}], "3", False),
        ({"/type": "ack"}, '{"type":"ack"}', True),
        ({"/type": "ack"}, '{"type":"\\u0061ck"}', True),
        ({"/type": "ack"}, '{"type":["ack"]}', False),
        ({"/type": "ack", "/id": 1}, '{"type":"ack","id":2}', False),
        ({"/type": "ack", "/id": 1}, '{"type":"ack","id":1}', True),
        ({"/id": {"exists": True}}, '{"id":null}', True),
        ({"/id": {"exists": True}}, "{}", False),
        ({"/id": {"exists": False}}, "{}", True),
        ({"/id": {"exists": False}}, "no JSON", False),
        ({"/op": {"in": [7, 9, "x", None]}}, '{"op":9.0}', True),
        ({"/op": {"in": [7, 9, "x", None]}}, '{"op":null}', True),
        ({"/op": {"in": [7, 9, "x", None]}}, "{}", False),
        ({"/op": {"in": [7, 9, "x", None]}}, '{"op":[7]}', False),
        ({"/result": None}, '{"result":null}', True),
        ({"/result": None}, "{}", False),
        ({"/3/status": "ok"}, '["1","1","t",{"status":"ok"}]', True),
        ({"/0": 3}, '[3,"19223201",{}]', True),
        ({"": "ping"}, '"ping"', True),  # the whole document
        ({"": "ping"}, "ping", False),
    ],
)
def test_a_frame_is_meant_or_not(request_: Any, payload: str | bytes, expected: bool) -> None:
    assert matches(request_, payload) is expected


@pytest.mark.parametrize(
    ("asked", "came", "equal"),
    [
        (1, "1.0", True),
        (1.0, "1", True),
        (1e2, "100", True),
        (0, "-0", True),
        (0, "-0.0", True),
        (10**30, "1" + "0" * 30, True),
        (2**53, "9007199254740993", False),
        (True, "true", True),
        (True, "1", False),
        (1, "true", False),
        (0, "false", False),
        (False, "0", False),
        (False, "null", False),
        (None, "0", False),
        (0, "null", False),
        ("1", "1", False),
        (1, '"1"', False),
        ("", "null", False),
    ],
)
def test_scalars_are_equal_as_json_values(asked: Any, came: str, equal: bool) -> None:
    assert matches({"/v": asked}, f'{{"v":{came}}}') is equal
    assert matches({"/v": {"in": [asked, "other"]}}, f'{{"v":{came}}}') is equal


def test_a_binary_message_is_matched_only_by_its_bytes() -> None:
    for request in ("2", {"startsWith": "2"}, {"contains": "2"}, {"": 2}):
        assert matches(request, b"2")
        assert not matches(request, b"2", is_text=False), "a user's binary message is no heartbeat"
    assert matches({"base64": "Mg=="}, b"2", is_text=False)


def test_json_is_parsed_once_and_only_where_a_matcher_asks() -> None:
    frame = Frame(b'{"type":"x"}', True)
    text, pointers = compiled(["pong", {"contains": "zz"}]), compiled([{"/type": "y"}, {"/type": "x"}])
    assert (text.needs_json, pointers.needs_json) == (False, True)
    assert not text.matches(frame)
    assert not frame.parsed
    assert pointers.matches(frame)
    value = frame.json
    assert frame.parsed
    assert pointers.matches(frame)
    assert frame.json is value, "the same object: it was not parsed again"
    first = Frame(b"pong", True)
    assert compiled(["pong", {"/type": "x"}]).matches(first)
    assert not first.parsed, "the text was compared first"


@pytest.mark.parametrize("payload", [b"[" * 100_000, b"\xff", b"", b"{", b"NaN", b'{"a":1}x', b"\x00" * 9])
def test_a_hostile_frame_is_no_json_and_raises_nothing(payload: bytes) -> None:
    frame = Frame(payload, True)
    assert not compiled({"/a": {"exists": False}}).matches(frame)
    assert frame.json is MISSING


def test_json_beyond_our_decoder_is_seen_as_a_user_sees_it() -> None:
    assert matches({"/a": 1}, '{"a":1,"b":1e999}')
    assert matches({"/a": "\ud800"}, '{"a":"\\ud800"}')


@pytest.mark.parametrize(
    ("request_", "places"),
    [
        ([], ["/when"]),
        ({}, ["/when"]),
        ([[]], ["/when/0"]),
        ([{}], ["/when/0"]),
        ([{"a": 1}, {"/b~": 1}], ["/when/0/a", "/when/1/~1b~0"]),
        ({"startsWith": ""}, ["/when/startsWith"]),
        ({"contains": ""}, ["/when/contains"]),
        ({"contains": 5}, ["/when/contains"]),
        ({"base64": "no!"}, ["/when/base64"]),
        ({"base64": "é"}, ["/when/base64"]),
        ({"base64": ""}, ["/when/base64"]),
        ({"startsWith": "a", "/b": 1}, ["/when/startsWith"]),
        ({"startsWith": "a", "contains": "b"}, ["/when/startsWith", "/when/contains"]),
        ({"/a": {}}, ["/when/~1a"]),
        ({"/a": []}, ["/when/~1a"]),
        ({"/a": {"exists": 1}}, ["/when/~1a"]),
        ({"/a": {"in": []}}, ["/when/~1a"]),
        ({"/a": {"in": [[1]]}}, ["/when/~1a"]),
        ({"/a": {"in": [1], "exists": True}}, ["/when/~1a"]),
        ({"/a": {"regex": "x"}}, ["/when/~1a"]),
        ({"/a": b"bytes"}, ["/when/~1a"]),
        ({"/a": {1, 2}}, ["/when/~1a"]),
        ("\ud800", ["/when"]),
        (5, ["/when"]),
        ([5, None], ["/when/0", "/when/1"]),
    ],
)
def test_what_is_not_valid_is_named_by_its_place(request_: Any, places: list[str]) -> None:
    wrong: list[Invalid] = []
    matcher = compile_matcher(request_, "/when", wrong)
    assert [one.pointer for one in wrong] == places
    assert not matcher.matches(Frame(b"{}", True))


def test_thirty_two_conditions_are_enough() -> None:
    wrong: list[Invalid] = []
    compile_matcher([f"{i}" for i in range(MAX_TERMS - 2)] + [{"/a": 1, "/b": 2}], "", wrong)
    assert not wrong
    compile_matcher([f"{i}" for i in range(MAX_TERMS - 1)] + [{"/a": 1, "/b": 2}], "", wrong)
    assert [one.pointer for one in wrong] == [""]


@given(JSON, st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_any_value_makes_a_matcher_and_any_frame_is_answered(request_: Any, payload: bytes, is_text: bool) -> None:
    wrong: list[Invalid] = []
    matcher = compile_matcher(request_, "", wrong)
    assert matcher.matches(Frame(payload, is_text)) in (True, False)
    assert not NEVER.matches(Frame(payload, is_text))


@given(st.text(min_size=1), st.text(max_size=3), st.text(max_size=3))
def test_bytes_and_text_agree(part: str, before: str, after: str) -> None:
    whole = before + part + after
    assert matches({"contains": part}, whole)
    assert matches({"startsWith": part}, whole) is whole.startswith(part)
    assert matches(part, whole) is (part == whole)
    assert matches({"base64": base64.b64encode(part.encode()).decode()}, whole) is whole.encode().startswith(
        part.encode()
    )
