"""What the options of a kept connection must be to each other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mooring.connection.kept_rules import Compiled, KeptRequest, compile_kept
from mooring.connection.recipe_compiler import Recipes
from mooring.connection.template import Values
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest, RecipeRequest, ReconnectRequest, RequestsRequest

TYPES = {"recipe": RecipeRequest, "keep_alive": KeepAliveRequest}
URL = "wss://h.test/"
PERSIST = ReconnectRequest(persist=True)


def judged(**keys: Any) -> tuple[Compiled, list[str]]:
    keys = {"url": URL, **keys}
    for name, kind in TYPES.items():
        if name in keys:
            keys[name] = msgspec.convert(keys[name], kind)
    wrong: list[Invalid] = []
    return compile_kept(KeptRequest(**keys), Recipes(), wrong), [one.pointer for one in wrong]


def test_without_anything_of_it_url_and_headers_stay_as_they_are() -> None:
    made, places = judged(url="wss://h.test/?q=${x}$${y}", headers={"A": "${name} ${/x}", "B": ["a", "b"]})
    assert not places
    assert made.url is None, "today's URLs are taken as they are written"
    assert [template.fill(Values()) for _, template in made.headers] == ["${name} ${/x}", "a", "b"]
    assert (made.recipe, made.keep_alive, made.requests, made.renewable) == (None, None, None, False)


def test_a_secret_in_a_header_needs_no_recipe_and_is_renewable() -> None:
    made, places = judged(headers={"Authorization": "Bearer ${secret:feed}"})
    assert not places
    assert made.uses.secrets == {"feed": "/headers/Authorization"}
    assert made.renewable
    assert judged(recipe={"renew": {"function": "f"}})[0].renewable


def test_every_name_must_be_given_by_somebody() -> None:
    keys: dict[str, Any] = {
        "url": "wss://h.test/?t=${token}",
        "headers": {"X": "${x|0}"},
        "keep_alive": {"send": "${k}", "interval": 5, "intervalFrom": "${i}"},
    }
    opening = [{"send": "${o}", "when": "w", "unless": "u"}]
    unknown = ["/url", "/headers/X", "/recipe/opening/0/send", "/recipe/opening/0/when", "/recipe/opening/0/unless"]
    assert judged(**keys, recipe={"opening": opening})[1] == [*unknown, "/keepAlive/send", "/keepAlive/intervalFrom"]
    remembered = {name: {"pointer": "/a"} for name in ("token", "x", "k", "i", "o", "w", "u")}
    assert not judged(**keys, recipe={"opening": opening, "remember": remembered})[1]
    assert not judged(**keys, recipe={"opening": opening, "renew": {"function": "f"}})[1], "it may give any"
    assert not judged(**keys, recipe={"opening": opening}, handler_renews=True)[1]
    assert judged(keep_alive=keys["keep_alive"])[1] == ["/keepAlive/send", "/keepAlive/intervalFrom"]


def test_the_handlers_renew_counts_as_a_recipe() -> None:
    made, places = judged(url="wss://h.test/?t=${token}", handler_renews=True)
    assert not places
    assert made.url is not None
    assert made.url.fill(Values(names={"token": "a b"})) == "wss://h.test/?t=a%20b"


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("${endpoint}?token=${token}", []),
        ("wss://h.test/${token}", []),
        ("wss://${token}.test/", []),
        ("http://h.test/${token}", ["/url"]),
        ("wss://u@h.test/${token}", ["/url"]),
        ("wss://h.test/#${token}", ["/url"]),
        ("wss://h.test/${nextId}", ["/url"]),
        ("wss://h.test/${/id}", ["/url"]),
    ],
)
def test_a_url_with_values_is_checked_as_far_as_it_is_known(url: str, places: list[str]) -> None:
    assert judged(url=url, recipe={"renew": {"function": "f"}})[1] == places
    assert judged(url="http://h.test/")[1] == ["/url"]


RECIPE = {"reconnectWhen": [{"when": "x"}], "catchUp": {"function": "f"}}


def test_what_is_for_the_next_socket_needs_reconnect() -> None:
    keys: dict[str, Any] = {"recipe": RECIPE, "when_down": "queue", "queue_ttl": 5.0}
    assert judged(**keys)[1] == ["/whenDown", "/queueTtl", "/recipe/reconnectWhen", "/recipe/catchUp"]
    assert not judged(**keys, reconnect=True)[1]
    assert not judged(**keys, reconnect=ReconnectRequest())[1]
    assert not judged(recipe=RECIPE, of_fragment={"reconnectWhen", "catchUp"})[1], "a preset's do nothing then"
    assert not judged(when_down="fail", recipe={"renew": {"function": "f"}, "stopWhen": ["x"]})[1]
    assert judged(reconnect=ReconnectRequest(min_delay=0.0))[1] == ["/reconnect/minDelay"]


def test_under_blob_nothing_looks_into_json() -> None:
    recipe = {
        "opening": [{"expect": {"/a": 1}}, {"send": "${/b}", "expect": "text"}],
        "remember": {"r": {"pointer": "/a"}},
        "reconnectWhen": [{"when": {"base64": "AA=="}, "urlFrom": "/u"}],
    }
    keys: dict[str, Any] = {
        "recipe": recipe,
        "keep_alive": {"hide": [{"/k": 1}]},
        "requests": "jsonrpc",
        "reconnect": True,
    }
    assert sorted(judged(**keys, data_type="blob")[1]) == [
        "/keepAlive/hide/0",
        "/recipe/opening/0/expect",
        "/recipe/opening/1/send",
        "/recipe/reconnectWhen/0/urlFrom",
        "/recipe/remember/r",
        "/requests",
    ]
    for data_type in ("text", "object", "auto"):
        assert not judged(**keys, data_type=data_type)[1]
    binary = {"opening": [{"sendBase64": "AA==", "expect": {"base64": "AA=="}}]}
    assert not judged(recipe=binary, data_type="blob")[1]


def test_what_is_persisted_holds_no_secret() -> None:
    keys: dict[str, Any] = {
        "headers": {"Authorization": "Bearer x", "User-Agent": "me", "X-Key": ["${secret:k}", "plain"]},
        "recipe": {"opening": [{"send": {"token": "x", "id": 1}}, {"send": {"token": "${secret:k}"}}]},
        "keep_alive": {"send": {"auth": "x"}, "interval": 5},
    }
    expected = ["/headers/Authorization", "/headers/X-Key", "/recipe/opening/0/send/token", "/keepAlive/send/auth"]
    assert judged(**keys, reconnect=PERSIST)[1] == expected
    assert not judged(**keys, reconnect=True)[1]
    assert not judged(**keys, reconnect=PERSIST, declared=True)[1], "nothing of it is stored but its name and id"
    assert not judged(headers={"Authorization": "Bearer ${secret:k}", "origin": "x"}, reconnect=PERSIST)[1]


@pytest.mark.parametrize(
    ("keys", "places"),
    [
        ({"data_timeout": 0.0}, []),
        ({"data_timeout": 0.05}, ["/dataTimeout"]),
        ({"data_timeout": 86_401.0}, ["/dataTimeout"]),
        ({"queue_ttl": 0.0}, ["/queueTtl"]),
        ({"queue_ttl": float("nan")}, ["/queueTtl"]),
        ({"queue_ttl": 86_400.0}, []),
        ({"requests": "soap"}, ["/requests"]),
        ({"requests": RequestsRequest(id="x", reply="/x")}, ["/requests/id"]),
    ],
)
def test_durations_and_requests_are_checked(keys: dict[str, Any], places: list[str]) -> None:
    assert judged(**keys, reconnect=True)[1] == places
