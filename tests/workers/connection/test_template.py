"""Templates: what is filled in before it is sent."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.pointer import MISSING
from mooring.connection.template import (
    MAX_FILLED_BYTES,
    MAX_HOLES,
    OF_ANSWER,
    OF_MESSAGE,
    TextTemplate,
    Unfilled,
    Values,
    compile_header,
    compile_message,
    compile_url,
)
from mooring.errors import Invalid
from tests.workers.connection.test_pointer import JSON

VALUES = Values(
    names={"token": "t o/k", "n": 5, "flag": True, "none": None, "deep": {"a": [1]}, "u": "wss://h.test/x?y=1"},
    secrets={"feed": "s3cr3t"},
    message={"id": 7, "price": 1.5, "who": {"name": "é"}, "null": None, "a/b": 'quote " brace }'},
    next_id=42,
    socket=3,
)


def filled(value: Any, values: Values = VALUES) -> bytes | Unfilled:
    wrong: list[Invalid] = []
    template = compile_message(value, "", wrong, OF_ANSWER)
    assert not wrong
    return template.fill(values)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("ping", b"ping"),
        ("", b""),
        ("a $ b $x {y} $${token}", b"a $ b $x {y} ${token}"),
        ("$$${token}", b"$${token}"),
        ("PASS ${secret:feed} ${token}", b"PASS s3cr3t t o/k"),
        ("${n}", b"5"),
        ("${/id}:${/price}:${flag}:${deep}", b'7:1.5:true:{"a":[1]}'),
        ("${gone|0}${n|1}${none|2}${gone|}.", b"052."),
        (None, b"null"),
        (7, b"7"),
        ({"op": 1, "d": None}, b'{"op":1,"d":null}'),
        ({"id": "${/id}"}, b'{"id":7}'),
        ({"id": "#${/id}"}, b'{"id":"#7"}'),
        ({"d": "${none}", "e": "${/null}"}, b'{"d":null,"e":null}'),
        ({"d": "${deep}", "p": "${/who}"}, '{"d":{"a":[1]},"p":{"name":"é"}}'.encode()),
        ({"d": "${/a~1b}"}, b'{"d":"quote \\" brace }"}'),
        ({"since": "${gone|0}"}, b'{"since":"0"}'),  # a text stays a text
        ({"lit": "$${nextId}"}, b'{"lit":"${nextId}"}'),
        (["${nextId}", "${nextId}", "t", "phx_join", {}], b'[42,42,"t","phx_join",{}]'),
        ([2, "n${nextId}", "Heartbeat", {"s": "${socket}"}], b'[2,"n42","Heartbeat",{"s":3}]'),
    ],
)
def test_a_message_is_filled_structurally(template: Any, expected: bytes) -> None:
    assert filled(template) == expected


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("${gone}", "missing: gone"),
        ({"a": ["${n}", "${gone}"]}, "missing: gone"),
        ("${/gone}", "missing: /gone"),
        ("${secret:gone}", "missing: secret:gone"),
        ("x${none}", "missing: none"),  # never the word null, and never an empty text
        ("x${/null}", "missing: /null"),
    ],
)
def test_what_is_missing_is_named(template: Any, what: str) -> None:
    unfilled = filled(template)
    assert isinstance(unfilled, Unfilled)
    assert str(unfilled) == what


def test_without_a_message_each_pointer_is_missing() -> None:
    assert filled("${/id}", Values()) == Unfilled("/id")
    assert Values().message is MISSING


def test_what_a_peer_can_make_us_send_has_a_bound() -> None:
    big = Values(message={"s": "x" * (MAX_FILLED_BYTES // 2 + 1), "l": ["x" * MAX_FILLED_BYTES]})
    assert isinstance(filled({"a": "${/s}"}, big), bytes)
    assert filled({"a": "${/s}", "b": "${/s}"}, big) == Unfilled("/s", "too large")
    assert filled("${/l}", big) == Unfilled("/l", "too large")
    wrong: list[Invalid] = []
    compile_message({"a": ["${/s}"] * (MAX_HOLES + 1)}, "/send", wrong, OF_ANSWER)
    compile_message("${/s}" * (MAX_HOLES + 1), "/send", wrong, OF_ANSWER)
    assert {one.pointer for one in wrong} == {"/send"}


def test_a_value_of_user_code_that_is_no_json_is_named_and_raises_nothing() -> None:
    assert filled({"v": "${v}"}, Values(names={"v": "\ud800"})) == b'{"v":"\\ud800"}', "JSON can say it, UTF-8 cannot"
    assert isinstance(filled("${v}", Values(names={"v": "\ud800"})), Unfilled)
    for value in ({"a": object()}, object()):
        unfilled = filled({"v": "${v}"}, Values(names={"v": value}))
        assert isinstance(unfilled, Unfilled)
        assert unfilled.why == "not a JSON value"


@pytest.mark.parametrize(
    ("template", "places"),
    [
        ("${", [""]),
        ("${token", [""]),
        ("${}", [""]),
        ("${a b}", [""]),
        ("${1}", [""]),
        ("${nextId|0}", [""]),
        ("${/a~}", [""]),
        ("${secret:}", [""]),
        ("${secret:a b}", [""]),
        ("${now}-${env:HOME}", [""]),
        ({"a": {"b/c": ["x", "${"]}}, ["/a/b~1c/1"]),
        ({"${token}": 1}, ["/${token}"]),
    ],
)
def test_an_unknown_placeholder_is_refused_with_its_place(template: Any, places: list[str]) -> None:
    wrong: list[Invalid] = []
    compile_message(template, "", wrong, OF_ANSWER)
    assert [one.pointer for one in wrong] == places


def test_a_placeholder_stands_only_where_it_can_be_filled() -> None:
    wrong: list[Invalid] = []
    compile_message("${/id}", "/send", wrong, OF_MESSAGE)
    compile_url("ws://h/${/id}", "/url", wrong)
    compile_url("ws://h/${nextId}", "/url", wrong)
    compile_header("${nextId}", "/headers/A", wrong, recipe=True)
    assert [one.pointer for one in wrong] == ["/send", "/url", "/url", "/headers/A"]
    assert all("cannot be filled in here" in one.detail for one in wrong)


def test_a_template_says_what_it_needs() -> None:
    wrong: list[Invalid] = []
    needs = compile_message(["${a}", {"b": "${b|0} ${secret:s} ${/x} ${nextId}"}], "", wrong, OF_ANSWER).needs
    assert (needs.names, needs.fallbacks, needs.secrets) == ({"a"}, {"b"}, {"s"})
    assert needs.pointers
    assert needs.next_id


def url(text: str) -> TextTemplate:
    wrong: list[Invalid] = []
    template = compile_url(text, "/url", wrong)
    assert not wrong
    return template


def test_values_in_a_url_are_percent_encoded_but_for_one_with_which_it_begins() -> None:
    assert url("wss://h.test/?t=${token}&n=${n}").fill(VALUES) == "wss://h.test/?t=t%20o%2Fk&n=5"
    assert url("${u}&t=${token}").fill(VALUES) == "wss://h.test/x?y=1&t=t%20o%2Fk"
    assert url("wss://h.test/?u=${u}").fill(VALUES) == "wss://h.test/?u=wss%3A%2F%2Fh.test%2Fx%3Fy%3D1"
    assert url("wss://h.test/?c=${cursor|0}").fill(VALUES) == "wss://h.test/?c=0"
    assert url("wss://h.test/?c=${gone}").fill(VALUES) == Unfilled("gone")
    assert url("wss://h.test/?t=${token}").sample() == "wss://h.test/?t=x"
    assert url("${u}").sample() is None


@given(st.text())
def test_no_value_breaks_out_of_its_place_in_a_url(value: str) -> None:
    made = url("wss://h.test/a/${v}?q=${v}").fill(Values(names={"v": value}))
    assert isinstance(made, str)
    path, _, query = made.removeprefix("wss://h.test/a/").partition("?q=")
    assert not set(path + query) & set("/?#&=@: \r\n")
    assert unquote(path) == unquote(query) == value


def header(text: str, *, recipe: bool = True) -> TextTemplate:
    wrong: list[Invalid] = []
    template = compile_header(text, "/headers/A", wrong, recipe=recipe)
    assert not wrong
    return template


def test_a_header_takes_what_is_one_line() -> None:
    assert header("Bearer ${secret:feed}").fill(VALUES) == "Bearer s3cr3t"
    assert header("${n} ${socket}").fill(VALUES) == "5 3"
    for value in ("a\r\nHost: evil", "a\nb", "a\0b", "\x7f", "\ud800", "x" * 40_000):
        unfilled = header("Bearer ${v}").fill(Values(names={"v": value}))
        assert isinstance(unfilled, Unfilled)
        assert unfilled.what == "v"
        assert value not in str(unfilled), "it may be a secret"


def test_without_a_recipe_a_header_stays_as_it_is_but_for_secrets() -> None:
    for text in ("${name}", "${/id}", "${", "a ${not closed", "${nextId} $ {}"):
        assert header(text, recipe=False).fill(VALUES) == text
    assert header("Bearer ${secret:feed} $${secret:feed}", recipe=False).fill(VALUES) == "Bearer s3cr3t ${secret:feed}"
    wrong: list[Invalid] = []
    compile_header("${secret:a b}", "/headers/A", wrong, recipe=False)
    assert [one.pointer for one in wrong] == ["/headers/A"]


@given(JSON, JSON, st.text())
def test_any_value_makes_a_template_and_any_template_is_filled_or_not(template: Any, message: Any, name: str) -> None:
    wrong: list[Invalid] = []
    made = compile_message(template, "", wrong, OF_ANSWER).fill(Values(message=message, names={name: message}))
    assert isinstance(made, (bytes, Unfilled))
    if isinstance(made, bytes) and not isinstance(template, str) and "${" not in json.dumps(template):
        assert json.loads(made) == template


@given(JSON)
def test_a_value_keeps_its_type_and_cannot_break_out_of_its_string(value: Any) -> None:
    made = filled({"a": "${v}", "b": 1}, Values(names={"v": value}))
    assert isinstance(made, bytes)
    assert json.loads(made) == {"a": value, "b": 1}
