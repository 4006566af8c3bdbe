"""JSON pointers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.checks import escape_pointer
from mooring.connection.pointer import MISSING, parse_pointer, put

DOCUMENT = {  # of RFC 6901 section 5
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def get(text: str, value: Any) -> Any:
    pointer = parse_pointer(text)
    assert pointer is not None
    return pointer.get(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_the_rfc(text: str, value: object) -> None:
    assert get(text, DOCUMENT) == value


@pytest.mark.parametrize("text", ["foo", "/a~", "/a~2", "#/foo", "/" + "a" * 1000])
def test_what_is_no_pointer_is_none(text: str) -> None:
    assert parse_pointer(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/-", [1]),  # the element after the last one
        ("/01", [1, 2]),  # leading zeros
        ("/00", [1, 2]),
        ("/1", [1]),
        ("/-1", [1]),
        ("/+1", [1, 2]),
        ("/1e0", [1, 2]),
        ("/٣", [1, 2, 3, 4]),  # a digit, but not of ABNF's DIGIT
        ("/" + "9" * 900, [1]),  # more digits than int() reads
        ("/a/b", {"a": 1}),
        ("/0", "text"),
        ("/0", None),
        ("//", {"": {}}),
    ],
)
def test_what_is_not_there_is_missing(text: str, value: object) -> None:
    assert get(text, value) is MISSING


def test_a_name_of_digits_is_a_member_of_an_object_and_null_is_a_value() -> None:
    assert get("/01", {"01": None}) is None
    assert get("/-", {"-": 5}) == 5
    assert get("/~01", {"~1": 5}) == 5, "~1 is read before ~0"


@given(JSON, st.lists(st.text(max_size=3), max_size=4))
def test_any_pointer_into_any_value_gives_a_value_or_missing(value: object, names: list[str]) -> None:
    found = get("".join("/" + escape_pointer(name) for name in names), value)
    for name in names:
        value = (
            value[name]
            if isinstance(value, dict) and name in value
            else value[int(name)]
            if isinstance(value, list) and name in {str(i) for i in range(len(value))}
            else MISSING
        )
    assert found is value


@given(st.text(max_size=20))
def test_any_text_is_a_pointer_or_not(text: str) -> None:
    pointer = parse_pointer(text)
    assert pointer is None or pointer.text == text


@pytest.mark.parametrize(
    ("text", "body", "after"),
    [
        ("/id", b'{"method":"m","price":1.10}', b'{"method":"m","price":1.10,"id":7}'),
        ("/id", b'{"id" : null, "q": 123456789012345678901234567890}', b'{"id":7,"q":123456789012345678901234567890}'),
        ("/1", b'[2, "", "Heartbeat", {}]', b'[2,7,"Heartbeat",{}]'),
        ("/head/id", b'{"head":{"x":1e2}}', b'{"head":{"x":1e2,"id":7}}'),
        ("", b"{}", b"7"),
        ("/1", b"[1]", None),
        ("/-", b"[1]", None),
        ("/id", b"3", None),
        ("/id", b"{", None),
        ("/head/id", b"{}", None),
        ("/head/id", b'{"head":[]}', None),
        ("/id", b"[" * 5000, None),
        ("/id", b'{"\xff":1}', None),
    ],
)
def test_a_value_is_put_in_and_the_rest_stays_as_it_came(text: str, body: bytes, after: bytes | None) -> None:
    pointer = parse_pointer(text)
    assert pointer is not None
    assert put(pointer, body, 7) == after


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.text(max_size=3))
def test_what_was_put_in_is_found_there(body: dict[str, Any], name: str) -> None:
    pointer = parse_pointer("/" + escape_pointer(name))
    assert pointer is not None
    after = put(pointer, json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass"), "x")
    if after is not None:
        assert pointer.get(json.loads(after)) == "x"
