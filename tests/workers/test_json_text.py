"""JSON as the grammar has it, held against Python's own reader, which is as lenient in all but a few known points."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring import json_text

LENIENT = [
    (b"1e400", math.inf),
    (b"[-1e400, 1e-400]", [-math.inf, 0.0]),
    (b'"\\ud800"', "\ud800"),
    (b'"\\udc00 \\uD83D\\uDE00 \\ud83d"', "\udc00 \U0001f600 \ud83d"),
    (b'{"\\ud800": "\\\\ud800 \\\\\\ud800"}', {"\ud800": "\\ud800 \\\ud800"}),
    (b'"\\ud800\\u0041"', "\ud800A"),
    (b"123456789012345678901234567890", 123456789012345678901234567890),
    (b"9" * 5_000, math.inf),
    (b"-" + b"9" * 5_000, -math.inf),
    (b"0." + b"1" * 5_000, 1 / 9),
    (b' \r\n\t[null, true, false, ""] \n', [None, True, False, ""]),
    (b"[" * 500 + b"]" * 500, json.loads("[" * 500 + "]" * 500)),
]


@pytest.mark.parametrize(("data", "value"), LENIENT, ids=[str(row[0])[:30] for row in LENIENT])
def test_what_the_grammar_allows_is_json(data: bytes, value: Any) -> None:
    json_text.check(data)
    assert json_text.decode(data) == value


WRONG = [
    b"", b" ", b"{a}", b"[1,]", b"[1 2]", b"1 2", b"01", b"1.", b".5", b"+1", b"-", b"1e", b"0x1", b"NaN", b"Infinity",
    b'"', b'"\\', b'"\\x"', b'"\\u12"', b'"\\ud8"', b'"\\ud800', b'"\\ud8zz"', b"\\ud800", b'["\\ud800",]', b'"\x01"',
    b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800\xff"', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("data", WRONG, ids=lambda data: str(data)[:30])
def test_what_it_does_not_allow_is_refused(data: bytes) -> None:
    with pytest.raises(json_text.NotJson):
        json_text.check(data)
    with pytest.raises(json_text.NotJson):
        json_text.decode(data)


def _reference(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


pieces = st.sampled_from(
    ['"', "\\", "\\\\", "\\u", "d800", "DC00", "0041", "{", "}", "[", "]", ",", ":", "1", "0", "-", ".", "e", "400", "a",
     " ", "\n", "null", "é", "/", "b"]
)  # fmt: skip


@given(
    st.lists(pieces, max_size=14).map("".join) | st.lists(pieces, max_size=8).map(lambda parts: f'"{"".join(parts)}"')
)
def test_it_agrees_with_pythons_reader(text: str) -> None:
    data = text.encode()
    try:
        expected = _reference(text)
    except ValueError:
        with pytest.raises(json_text.NotJson):
            json_text.check(data)
        with pytest.raises(json_text.NotJson):
            json_text.decode(data)
    else:
        json_text.check(data)
        assert json_text.decode(data) == expected


def test_a_message_full_of_single_surrogates_is_checked_in_little_time() -> None:
    data = b'"' + b"\\ud800" * 600_000 + b"\\\\" * 300_000 + b'"'
    began = time.thread_time()
    json_text.check(data)
    assert time.thread_time() - began < 20.0, (
        "some tens of milliseconds; minutes, if each of them were searched from the start"
    )


def test_objects_are_encoded_with_single_surrogates_escaped_and_without_infinities() -> None:
    assert json_text.encode({"a": "\ud800", "b": math.inf, 3: b"x", "c": 10**30}) == (
        b'{"a":"\\ud800","b":null,"3":"eA==","c":1000000000000000000000000000000}'
    )
    assert json_text.encode({"a": "é", "b": math.inf}) == '{"a":"é","b":null}'.encode()
    with pytest.raises(TypeError):
        json_text.encode({"a": "\ud800", "b": object()})
