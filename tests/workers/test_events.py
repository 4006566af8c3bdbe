"""Events as JSON."""

from __future__ import annotations

import itertools
import json
import sys
from types import FrameType
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.events import Kind, blob_event, body_prefix, connection_body, object_event, rfc3339, text_body, text_event


@given(st.text(max_size=100))
def test_text_becomes_json_on_one_line(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    event = text_event(text)
    assert b"\n" not in event and b"\r" not in event
    assert msgspec.json.decode(event)["data"] == text


@given(st.binary(max_size=100))
def test_blobs_become_base64_on_one_line(data: bytes) -> None:
    event = msgspec.json.decode(blob_event(data))
    assert event["encoding"] == "base64"
    assert b"\n" not in blob_event(data)


def test_a_time_is_never_mixed_with_that_of_another_thread() -> None:
    one, other = 1_700_000_000_000_001, 1_800_000_000_000_002

    def at_line(wanted: int) -> str:
        """Return the text of `one`, when a thread makes that of `other` before line number `wanted` of ours is run."""
        rfc3339(one)
        lines = itertools.count()

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if event == "line" and next(lines) == wanted:
                sys.settrace(None)
                rfc3339(other)
            return trace

        def enter(frame: FrameType, event: str, argument: object) -> Any:
            return trace if frame.f_code is rfc3339.__code__ else None

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            return rfc3339(one)
        finally:
            sys.settrace(before)

    assert {at_line(number) for number in range(12)} == {"2023-11-14T22:13:20.000001Z"}
    assert rfc3339(other) == "2027-01-15T08:00:00.000002Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["", " ", "\n", "\r\n  "]))
def test_objects_pass_as_they_came_but_on_one_line(value: object, space: str) -> None:
    text = json.dumps(value, indent=2 if space else None) + space
    event = object_event(text.encode())
    assert b"\n" not in event and b"\r" not in event
    assert json.loads(event)["data"] == value


def test_the_body_of_a_text_is_the_same_in_one_go() -> None:
    prefix = body_prefix(Kind.onMessage, 7, "w")
    for time_us in (1_732_820_000_000_000, 1_732_820_000_000_007, 1_732_820_001_999_999, 1_732_820_000_123_456):
        for text in ("", "x", 'ä"\n\u2028', "\U0001f600"):
            whole = connection_body(prefix, 41, time_us, text_event(text))
            assert text_body(prefix, 41, time_us, text) == whole
