"""What a cursor means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_service.journal.cursor import Broken, From, ahead_of, parse_cursor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", From(4, oldest=True)),
        ("now", From(20)),
        ("e1-4", From(4)),
        ("e1-20", From(20)),
        ("e1-3", Broken("e1-3", 3)),
        ("e1-21", Broken("e1-21", 21)),
        ("e2-10", Broken("e2-10", None)),
        ("", Broken("", None)),
        ("e1-", Broken("e1-", None)),
        ("e1--1", Broken("e1--1", None)),
        ("e1-9223372036854775808", Broken("e1-9223372036854775808", 9223372036854775808)),
        ("e1-10\n", Broken("e1-10\n", None)),
        ("e1-\0", Broken("e1-\0", None)),
        ("e1-١٢", Broken("e1-١٢", None)),
    ],
)
def test_what_a_cursor_means(text: str, expected: From | Broken) -> None:
    assert parse_cursor(text, epoch="e1", first=5, last=20) == expected


def test_what_others_have_read_is_no_gap_here() -> None:
    kept = {"epoch": "e1", "first": 5, "last": 20, "reach": 30}
    assert [parse_cursor(text, **kept) for text in ("e1-30", "e1-31", "now")] == [
        From(30),
        Broken("e1-31", 31),
        From(20),
    ]
    assert [ahead_of(text, epoch="e1", last=20) for text in ("e1-21", "e1-20", "e2-21", "now", "e1-")] == [
        21,
        *[None] * 4,
    ]


@given(st.text(max_size=300))
def test_any_text_is_a_cursor_or_a_broken_one(text: str) -> None:
    assert isinstance(parse_cursor(text, epoch="e", first=1, last=10), From | Broken)
