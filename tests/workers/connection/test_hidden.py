"""What a record shows of a recipe."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from mooring.connection.hidden import hide, is_secret_key
from tests.workers.connection.test_pointer import JSON


@pytest.mark.parametrize(
    "key", ["token", "Token", "access_token", "accessToken", "X-Api-Key", "apikey", "API_KEY", "clientSecret", "auth"]
)
def test_a_key_is_secret_by_any_of_its_words(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["author", "keys", "tokens", "keyframe", "authority", "id", "", "type", "channel", "0"])
def test_other_keys_are_not(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"type": "auth", "token": "abc"}, {"type": "auth", "token": "***"}),
        ({"auth": {"user": "me", "n": 5, "ok": True, "no": None}}, {"auth": {"user": "***", "n": "***", "ok": True, "no": None}}),
        ({"args": [{"key": ["a", ""]}]}, {"args": [{"key": ["***", ""]}]}),
        ({"token": "${secret:feed}"}, {"token": "${secret:feed}"}),
        ({"auth": "Bearer ${secret:feed}"}, {"auth": "Bearer ${secret:feed}"}),
        ({"token": "${token}"}, {"token": "${token}"}),
        ({"token": "${token|s3cr3t}"}, {"token": "${token|***}"}),
        ({"token": "s3cr3t${nextId}"}, {"token": "***${nextId}"}),
        ({"token": "$${secret:feed}"}, {"token": "***"}),
        ({"token": "${secret:"}, {"token": "***"}),
        ("PASS hunter2", "PASS hunter2"),
        ({"id": 1.5, "d": [None, "x"]}, {"id": 1.5, "d": [None, "x"]}),
    ],
)  # fmt: skip
def test_literals_under_a_secret_key_are_hidden(value: Any, shown: Any) -> None:
    found: list[str] = []
    assert hide(value, "", found) == shown
    assert bool(found) is (shown != value)


def test_each_hidden_place_is_named() -> None:
    found: list[str] = []
    hide({"a/b": [{"apiKey": "x", "q": 1}, {"auth": [1, "${n}", "y"]}]}, "/send", found)
    assert found == ["/send/a~1b/0/apiKey", "/send/a~1b/1/auth/0", "/send/a~1b/1/auth/2"]


@given(JSON)
def test_under_a_secret_key_no_text_and_no_number_survives(value: Any) -> None:
    def leaves(node: Any) -> list[Any]:
        if isinstance(node, (dict, list)):
            return [leaf for item in (node.values() if isinstance(node, dict) else node) for leaf in leaves(item)]
        return [node]

    for leaf in leaves(hide({"token": value})):
        assert leaf in ("***", "", None) or leaf is True or leaf is False or "${" in leaf
