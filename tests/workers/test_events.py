"""Events as JSON."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.events import blob_event, object_event, text_event


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
