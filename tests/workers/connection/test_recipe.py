"""Recipes: what is not valid is named by its place; equal ones are one object."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.connection.hidden import hidden_places, show
from mooring.connection.matcher import Frame
from mooring.connection.recipe import EMPTY, Recipe
from mooring.connection.recipe_compiler import MAX_RECIPE_BYTES, Recipes, compile_recipe
from mooring.connection.template import Values
from mooring.errors import Invalid
from mooring.kept_options import RecipeRequest
from tests.workers.connection.test_pointer import JSON

DISCORD = {  # the costliest of the protocols that are data
    "opening": [
        {"expect": {"/op": 10}, "timeout": 5},
        {
            "send": {"op": 6, "d": {"token": "${secret:bot}", "session_id": "${session}", "seq": "${seq}"}},
            "expect": {"/t": "RESUMED"},
            "fail": {"/op": 9},
            "when": "session",
        },
        {
            "send": {"op": 2, "d": {"token": "${secret:bot}", "intents": 513}},
            "expect": {"/t": "READY"},
            "fail": {"/op": 9},
            "unless": "session",
        },
    ],
    "answers": [{"when": {"/op": 1}, "send": {"op": 1, "d": "${seq|0}"}}],
    "remember": {
        "interval": {"pointer": "/d/heartbeat_interval", "when": {"/op": 10}},
        "seq": {"pointer": "/s", "when": {"/s": {"exists": True}}},
        "session": {"pointer": "/d/session_id"},
        "gateway": {"pointer": "/d/resume_gateway_url"},
    },
    "forget": [{"name": "session", "when": {"/op": 9, "/d": False}}],
    "resumedWhen": {"/t": "RESUMED"},
    "reconnectWhen": [{"when": {"/op": 7}, "delay": "none"}, {"when": {"/op": 9}}],
}
SLACK = {
    "renew": {
        "http": {
            "url": "https://slack.test/api/apps.connections.open",
            "method": "POST",
            "headers": {"Authorization": "Bearer ${secret:slack}"},
            "values": {"url": "/url"},
        },
        "timeout": 5,
        "reuseFor": 60,
    },
    "opening": [{"expect": {"/type": "hello"}}],
    "answers": [
        {"when": {"/envelope_id": {"exists": True}}, "send": {"envelope_id": "${/envelope_id}"}, "after": "stored"}
    ],
    "reconnectWhen": [{"when": {"/type": "disconnect"}, "urlFrom": "/debug_info/url"}],
    "stopWhen": [{"/reason": "link_disabled"}],
    "catchUp": {"function": "history", "params": {"days": 1}, "timeout": 600},
}


def asked(recipe: Any) -> RecipeRequest:
    return msgspec.convert(recipe, RecipeRequest)


def compiled(recipe: Any) -> Recipe:
    wrong: list[Invalid] = []
    made = compile_recipe(asked(recipe), "/recipe", wrong)
    assert not wrong
    return made


def places(recipe: Any) -> list[str]:
    wrong: list[Invalid] = []
    compile_recipe(asked(recipe), "/recipe", wrong)
    return [one.pointer for one in wrong]


def test_the_costliest_protocol_is_data() -> None:
    recipe = compiled(DISCORD)
    hello, resume, identify = recipe.opening
    assert (hello.send, hello.timeout_s, resume.when, identify.unless) == (None, 5, "session", "session")
    assert recipe.opening_timeout_s == 25
    assert resume.send is not None
    assert resume.send.fill(Values(names={"session": "x", "seq": 7}, secrets={"bot": "t"})) == (
        b'{"op":6,"d":{"token":"t","session_id":"x","seq":7}}'
    )
    assert recipe.answers[0].send.fill(Values()) == b'{"op":1,"d":"0"}'
    assert [one.at_once for one in recipe.reconnect_when] == [True, False]
    assert recipe.forget[0].when.matches(Frame(b'{"op":9,"d":false}', True))
    assert recipe.given == {"interval", "seq", "session", "gateway"}
    assert recipe.uses.names == {
        "seq": "/recipe/opening/1/send",
        "session": "/recipe/opening/1/send",
    }
    assert recipe.uses.secrets == {"bot": "/recipe/opening/1/send"}
    assert not recipe.gives_any_name


def test_a_renewal_by_http_gives_names_and_says_what_it_needs() -> None:
    recipe = compiled(SLACK)
    assert recipe.renew is not None
    assert recipe.renew.http is not None
    assert (recipe.renew.timeout_s, recipe.renew.reuse_for_s) == (5, 60)
    assert recipe.renew.http.url.fill(Values()) == "https://slack.test/api/apps.connections.open"
    assert recipe.renew.http.headers[0][1].fill(Values(secrets={"slack": "x"})) == "Bearer x"
    assert recipe.given == {"url"}
    assert recipe.uses.functions == {"history": "/recipe/catchUp/function"}
    assert recipe.answers[0].stored
    assert recipe.reconnect_when[0].url_from is not None
    assert compiled({"renew": {"function": "f"}}).gives_any_name
    assert compiled({"renew": {"function": "f", "params": [1]}}).uses.functions == {"f": "/recipe/renew/function"}


def test_a_step_may_use_the_match_of_a_former_one() -> None:
    assert not places({"opening": [{"expect": "x"}, {"send": {"re": "${/id}"}}]})
    assert places({"opening": [{"send": {"re": "${/id}"}, "expect": "x"}]}) == ["/recipe/opening/0/send/re"]
    assert not places({"opening": [{"sendBase64": "AAE="}]})


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"opening": [{}]}, ["/recipe/opening/0"]),
        ({"opening": [{"fail": "x"}]}, ["/recipe/opening/0", "/recipe/opening/0/fail"]),
        ({"opening": [{"send": 1, "sendBase64": "AA=="}]}, ["/recipe/opening/0/sendBase64"]),
        ({"opening": [{"sendBase64": "A"}]}, ["/recipe/opening/0/sendBase64"]),
        ({"opening": [{"send": "a"}, {"send": "${"}, {"expect": {"/a~": 1}}]}, ["/recipe/opening/1/send", "/recipe/opening/2/expect/~1a~0"]),
        ({"opening": [{"expect": "x", "timeout": 0}]}, ["/recipe/opening/0/timeout"]),
        ({"opening": [{"expect": "x", "timeout": 301}]}, ["/recipe/opening/0/timeout"]),
        ({"opening": [{"expect": "x", "timeout": float("nan")}]}, ["/recipe/opening/0/timeout"]),
        ({"opening": [{"send": "x"}] * 17}, ["/recipe/opening"]),
        ({"answers": [{"when": "x"}]}, ["/recipe/answers/0"]),
        ({"answers": [{"when": "x", "send": "y"}] * 17}, ["/recipe/answers"]),
        ({"answers": [{"when": "x", "send": "y", "after": "stored", "hide": True}]}, ["/recipe/answers/0/hide"]),
        ({"remember": {"nextId": {"pointer": "/a"}}}, ["/recipe/remember/nextId"]),
        ({"remember": {"a b/c": {"pointer": "/a"}}}, ["/recipe/remember/a b~1c"]),
        ({"remember": {"a": {"pointer": "a"}}}, ["/recipe/remember/a/pointer"]),
        ({"remember": {f"n{i}": {"pointer": "/a"} for i in range(17)}}, ["/recipe/remember"]),
        ({"forget": [{"name": "a", "when": "x"}]}, ["/recipe/forget/0/name"]),
        ({"renew": {}}, ["/recipe/renew"]),
        ({"renew": {"function": "f", "http": {"url": "https://h.test/", "values": {"a": "/a"}}}}, ["/recipe/renew"]),
        ({"renew": {"function": "f", "timeout": 0.05, "reuseFor": -1}}, ["/recipe/renew/timeout", "/recipe/renew/reuseFor"]),
        ({"renew": {"http": {"url": "https://h.test/"}}}, ["/recipe/renew/http/values"]),
        ({"renew": {"params": {}, "http": {"url": "https://h.test/", "values": {"a": "/a"}}}}, ["/recipe/renew/params"]),
        ({"renew": {"http": {"url": "ws://h.test/", "values": {"a": "/a"}}}}, ["/recipe/renew/http/url"]),
        ({"renew": {"http": {"url": "https://u@h.test/", "values": {"a": "/a"}}}}, ["/recipe/renew/http/url"]),
        ({"renew": {"http": {"url": "https://h.test/${nextId}", "values": {"a": "/a"}}}}, ["/recipe/renew/http/url"]),
        ({"renew": {"http": {"url": "https://h.test/", "values": {"a": "a", "b-": "/b", "": "/c"}}}}, ["/recipe/renew/http/values/a", "/recipe/renew/http/values/"]),
        ({"renew": {"http": {"url": "https://h.test/", "headers": {"a b": "x", "c": "d\r\n"}, "values": {"a": "/a"}}}}, ["/recipe/renew/http/headers/a b", "/recipe/renew/http/headers/c"]),
        ({"renew": {"http": {"url": "https://h.test/", "body": {}, "values": {"a": "/a"}}}}, ["/recipe/renew/http/body"]),
        ({"renew": {"http": {"url": "https://h.test/", "values": {"a": "/a"}}}, "remember": {"a": {"pointer": "/a"}}}, ["/recipe/remember/a"]),
        ({"reconnectWhen": [{"when": "x", "urlFrom": "url"}]}, ["/recipe/reconnectWhen/0/urlFrom"]),
        ({"reconnectWhen": [{"when": "x"}] * 17, "stopWhen": ["x"] * 17}, ["/recipe/reconnectWhen", "/recipe/stopWhen"]),
        ({"stopWhen": ["a", {}]}, ["/recipe/stopWhen/1"]),
        ({"resumedWhen": []}, ["/recipe/resumedWhen"]),
        ({"catchUp": {"function": "f", "timeout": 601}}, ["/recipe/catchUp/timeout"]),
        ({"preset": "phoenix", "opening": []}, ["/recipe/preset"]),
        ({"opening": [{"send": "x" * MAX_RECIPE_BYTES}]}, ["/recipe"]),
        ({"opening": [{"send": 2**64}]}, ["/recipe"]),
        ({"opening": [{"send": "\ud800"}]}, ["/recipe"]),
        ({"opening": [{"send": b"bytes"}]}, ["/recipe/opening/0/send"]),
        ({"opening": [{"send": {"a": [object()]}}]}, ["/recipe"]),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_named_by_its_place(recipe: Any, expected: list[str]) -> None:
    assert places(recipe) == expected


def test_what_is_nested_too_deeply_is_refused_and_raises_nothing() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert places({"opening": [{"send": deep}]}) == ["/recipe"]


def test_equal_recipes_are_one_object_as_long_as_somebody_holds_it() -> None:
    recipes = Recipes()
    wrong: list[Invalid] = []
    held = [recipes.get(asked(DISCORD), "/recipe", wrong) for _ in range(100)]
    other = recipes.get(asked(SLACK), "/recipe", wrong)
    shuffled = dict(reversed(DISCORD.items()))
    assert all(one is held[0] for one in held)
    assert recipes.get(asked(shuffled), "/recipe", wrong) is held[0], "the order of keys says nothing"
    assert other is not held[0]
    assert not wrong
    assert len(recipes) == 2
    del held, other
    gc.collect()
    assert len(recipes) == 0


def test_a_recipe_that_is_wrong_is_not_kept_and_is_wrong_each_time() -> None:
    recipes = Recipes()
    for _ in range(2):
        wrong: list[Invalid] = []
        recipes.get(asked({"stopWhen": [{}]}), "/recipe", wrong)
        assert [one.pointer for one in wrong] == ["/recipe/stopWhen/0"]
    assert len(recipes) == 0
    wrong = []
    assert recipes.get(asked({"opening": [{"send": "\ud800"}]}), "/recipe", wrong) is EMPTY
    assert wrong


def test_the_record_shows_a_recipe_without_its_secrets() -> None:  # 43
    canary = "s3cr3t"
    recipe = {
        "opening": [{"send": {"access_token": canary, "id": "${nextId}"}}, {"send": {"token": "${secret:x}"}}],
        "answers": [{"when": "x", "send": {"auth": {"pin": canary}}}],
        "renew": {
            "http": {
                "url": "https://h.test/",
                "method": "POST",
                "headers": {"Authorization": canary, "Accept": "a", "X": ["Bearer ${secret:x}", canary]},
                "body": {"client_secret": canary},
                "values": {"t": "/t"},
            }
        },
        "catchUp": {"function": "f", "params": {"apiKey": canary}},
    }
    request = asked(recipe)
    shown = show(request)
    assert canary.encode() not in msgspec.json.encode(shown)
    assert shown["opening"][0]["send"] == {"access_token": "***", "id": "${nextId}"}
    assert shown["renew"]["http"]["headers"] == {"Authorization": "***", "Accept": "***", "X": "***"}
    assert hidden_places(request, "/recipe") == [
        "/recipe/renew/http/headers/Authorization",
        "/recipe/renew/http/headers/X",
        "/recipe/opening/0/send/access_token",
        "/recipe/answers/0/send/auth/pin",
        "/recipe/renew/http/body/client_secret",
        "/recipe/catchUp/params/apiKey",
    ]
    assert asked(recipe) == request, "what is shown is a copy"
    assert hidden_places(asked(DISCORD), "/recipe") == hidden_places(asked(SLACK), "/recipe") == []


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "opening": st.lists(
                st.fixed_dictionaries({}, optional={"send": JSON, "expect": st.text() | st.lists(JSON)})
            ),
            "answers": st.lists(
                st.fixed_dictionaries({"when": st.text()}, optional={"send": JSON, "sendBase64": st.text()})
            ),
            "remember": st.dictionaries(st.text(), st.fixed_dictionaries({"pointer": st.text()})),
            "stopWhen": st.lists(st.text() | st.lists(JSON) | st.dictionaries(st.text(), JSON)),
            "catchUp": st.fixed_dictionaries({"function": st.text()}, optional={"params": st.lists(JSON)}),
        },
    )
)
def test_any_recipe_is_compiled_or_refused_and_shown(recipe: Any) -> None:
    wrong: list[Invalid] = []
    request = asked(recipe)
    assert isinstance(compile_recipe(request, "/recipe", wrong), Recipe)
    assert all(one.pointer.startswith("/recipe") for one in wrong)
    show(request)
