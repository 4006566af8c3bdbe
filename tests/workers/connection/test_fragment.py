"""Presets: fragments of a create body whose open values a request fills."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.fragment import MAX_FRAGMENT_BYTES, Fragment, fill_fragment, parse_fragment
from mooring.connection.kept_rules import Compiled, KeptRequest, compile_kept
from mooring.connection.recipe_compiler import Recipes
from mooring.connection.shipped import read_preset, shipped_presets
from mooring.connection.template import Values
from mooring.errors import Invalid
from tests.workers.connection.test_pointer import JSON


def parsed(fragment: Any) -> Fragment:
    wrong: list[Invalid] = []
    made = parse_fragment(fragment if isinstance(fragment, bytes) else json.dumps(fragment).encode(), wrong)
    assert not wrong
    return made


def filled(fragment: Any, values: dict[str, Any]) -> Fragment:
    wrong: list[Invalid] = []
    made = fill_fragment(parsed(fragment), values, "/recipe/values", wrong)
    assert not wrong
    return made


OPEN = {
    "values": {"topic": "what to join", "payload": "with what"},
    "recipe": {
        "opening": [{"send": ["${topic}", "${payload}", "$${topic}"], "expect": {"/0": "re:${topic|x}"}}],
        "remember": {"kept": {"pointer": "/k"}},
    },
    "keepAlive": {"send": "${topic} ${kept|0} ${nextId}", "interval": 5},
}


def test_values_are_filled_in_everywhere_and_other_placeholders_stay() -> None:
    made = filled(OPEN, {"topic": "room:1", "payload": {"n": 1.5, "t": "${secret:x}"}})
    assert msgspec.to_builtins(made.recipe) == {
        "opening": [
            {"send": ["room:1", {"n": 1.5, "t": "${secret:x}"}, "$${topic}"], "expect": {"/0": "re:room:1"}},
        ],
        "remember": {"kept": {"pointer": "/k"}},
    }
    assert msgspec.to_builtins(made.keep_alive) == {"send": "room:1 ${kept|0} ${nextId}", "interval": 5.0}


def test_a_value_that_is_no_text_stands_in_a_text_as_its_json() -> None:
    fragment = {"values": {"v": ""}, "recipe": {"opening": [{"send": "40${v}"}]}}
    for value, sent in (({"a": [1]}, '40{"a":[1]}'), ("", "40"), (5, "405"), ("/admin,", "40/admin,")):
        recipe = filled(fragment, {"v": value}).recipe
        assert not isinstance(recipe, msgspec.UnsetType)
        assert recipe.opening[0].send == sent


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ({}, ["/recipe/values/topic", "/recipe/values/payload"]),
        ({"topic": "a"}, ["/recipe/values/payload"]),
        ({"topic": "a", "payload": 1, "more/~": 2}, ["/recipe/values/more~1~0"]),
        ({"topic": "${other}", "payload": {"a": ["${nextId}", "${"]}}, ["/recipe/values/topic", "/recipe/values/payload", "/recipe/values/payload"]),
        ({"topic": "x" * 70_000, "payload": 1}, ["/recipe/values"]),
        ({"topic": "a", "payload": object()}, ["/recipe/values"]),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_named_by_their_place(values: dict[str, Any], places: list[str]) -> None:
    wrong: list[Invalid] = []
    fill_fragment(parsed(OPEN), values, "/recipe/values", wrong)
    assert [one.pointer for one in wrong] == places


def test_values_nested_too_deeply_are_refused_and_raise_nothing() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    wrong: list[Invalid] = []
    fill_fragment(parsed(OPEN), {"topic": "a", "payload": deep}, "", wrong)
    assert [one.pointer for one in wrong] == ["/payload"]


@pytest.mark.parametrize(
    ("fragment", "places"),
    [
        (b"[", [""]),
        (b"[]", [""]),
        (b"\xff", [""]),
        (b" " * MAX_FRAGMENT_BYTES + b"{}", [""]),
        ({"recipes": {}}, [""]),
        ({"values": {"a": 1}}, ["/values/…"]),
        ({"values": {"a b": "x"}}, ["/values/a b"]),
        ({"recipe": {"opening": [{"sned": 1}]}}, ["/recipe/opening/0"]),
        ({"recipe": {"opening": [{}, {"timeout": "1"}]}}, ["/recipe/opening/1/timeout"]),
        ({"recipe": {"preset": "phoenix"}}, ["/recipe/preset"]),
        ({"recipe": {"opening": [{"send": "${a}"}]}, "keepAlive": {"send": "${b}", "interval": 5}}, ["/recipe/opening/0/send", "/keepAlive/send"]),
        ({"recipe": {"stopWhen": [{}]}, "requests": "soap", "reconnect": {"minDelay": 0}}, ["/recipe/stopWhen/0", "/requests", "/reconnect/minDelay"]),
    ],
)  # fmt: skip
def test_a_file_that_is_no_fragment_is_named_by_its_place(fragment: Any, places: list[str]) -> None:
    wrong: list[Invalid] = []
    parse_fragment(fragment if isinstance(fragment, bytes) else json.dumps(fragment).encode(), wrong)
    assert [one.pointer for one in wrong] == places


@given(st.dictionaries(st.text(max_size=5) | st.just("v"), JSON), JSON)
def test_any_values_fill_a_fragment_or_are_refused(values: dict[str, Any], value: Any) -> None:
    wrong: list[Invalid] = []
    fragment = parsed({"values": {"v": ""}, "recipe": {"opening": [{"send": {"a": "${v}", "b": "x${v}"}}]}})
    made = fill_fragment(fragment, {**values, "v": value}, "", wrong)
    if not wrong:
        assert not isinstance(made.recipe, msgspec.UnsetType)
        assert made.recipe.opening[0].send["a"] == value


# The six that are shipped.

VALUES: dict[str, dict[str, Any]] = {
    "graphql-transport-ws": {"payload": {"token": "${secret:feed}"}, "subscription": {"query": "subscription { a }"}},
    "phoenix": {"topic": "room:lobby", "payload": {}},
    "slack-socket-mode": {"token": "${secret:slack}"},
    "home-assistant": {"token": "${secret:ha}", "events": "state_changed"},
    "jsonrpc": {"method": "eth_subscribe", "params": ["newHeads"]},
    "engine.io": {"connect": {"token": "${secret:feed}"}},
}


def preset(name: str) -> Compiled:
    data = read_preset(name)
    assert data is not None
    made = filled(data, VALUES[name])
    wrong: list[Invalid] = []
    compiled = compile_kept(
        KeptRequest(
            url="${url}" if name == "slack-socket-mode" else "wss://h.test/",
            reconnect=True if made.reconnect is msgspec.UNSET else made.reconnect,
            recipe=made.recipe,
            keep_alive=made.keep_alive,
            requests=made.requests,
        ),
        Recipes(),
        wrong,
    )
    assert not wrong
    return compiled


def test_each_preset_is_there_and_valid_and_asks_for_what_it_uses() -> None:
    assert shipped_presets() == sorted(VALUES)
    assert read_preset("nothing") is None
    assert read_preset("../shipped") is None
    for name, values in VALUES.items():
        data = read_preset(name)
        assert data is not None
        assert set(parsed(data).values) == set(values)
        assert all(parsed(data).values.values()), "each value says what it is"
        preset(name)


def test_a_secret_that_fills_a_preset_reaches_the_step_that_sends_it() -> None:
    for name in VALUES:
        assert all(secret in ("feed", "slack", "ha") for secret in preset(name).uses.secrets)
        recipe = preset(name).recipe
        assert recipe is not None
        for step in recipe.opening:
            if step.send is not None and step.send.needs.secrets:
                secrets = {secret: "canary" for secret in step.send.needs.secrets}
                sent = step.send.fill(Values(secrets=secrets, next_id=1))
                assert isinstance(sent, bytes)
                assert b"canary" in sent
