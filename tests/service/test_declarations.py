"""``[connections]``: create bodies in the configuration; what is wrong names its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET

from mooring_service.config import Config, ConfigError
from mooring_service.config_file import load
from mooring_service.declarations import all_declared


def read(path: Path, text: str) -> Config:
    file = path / "mooring.toml"
    file.write_text(text)
    return load(file, {})


def test_it_is_kept_goes_on_trying_and_may_say_so_itself(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        '[connections.a]\nurl = "ws://a/"\nproxy = false\nheaders = { A = "literal" }\n'
        '[connections.b]\nurl = "ws://b/"\nreconnect = { first = "fail", minDelay = 2, persist = true }\nworker = "w"\n',
    )
    found = all_declared(config)
    a, b = found["a"], found["b"]
    assert (a.name, a.proxy, a.headers, b.worker) == ("a", None, {"A": "literal"}, "w")
    assert not isinstance(a.reconnect, bool) and not isinstance(b.reconnect, bool)
    assert a.reconnect is not UNSET and b.reconnect is not UNSET
    assert (a.reconnect.first, b.reconnect.first, b.reconnect.min_delay) == ("retry", "fail", 2)


URL = 'url = "ws://127.0.0.1:1/"\n'


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("17", URL, "connections.17: a connection's name"),
        ("feed", "", "connections.feed: Object missing required field `url`"),
        ("feed", 'url = "http://a"', "connections.feed.url: the scheme"),
        ("feed", URL + "reconnet = true", "unknown key connections.feed.reconnet; did you mean reconnect?"),
        ("feed", URL + 'name = "x"', "connections.feed.name: the name is that of the table"),
        ("feed", URL + "reconnect = false", "connections.feed.reconnect: a declared connection is kept"),
        ("feed", URL + "reconnect = { persist = false }", "connections.feed.reconnect.persist: a declared"),
        ("feed", URL + "reconnect = { minDelay = 0 }", "connections.feed.reconnect.minDelay: must be"),
        ("feed", URL + "reconnect = { mindelay = 1 }", "connections.feed.reconnect: Object contains unknown field"),
        ("feed", URL + 'headers = { A = "${secret:nobody}" }', "connections.feed.headers.A: [secrets] has no 'nobody'"),
        ("feed", URL + 'handler = { name = "none" }', "connections.feed.handler.name: [handlers] has no 'none'"),
        ("feed", URL + 'proxy = "none"', "connections.feed.proxy: [proxies] of the configuration has no 'none'"),
    ],
)
def test_what_is_wrong_names_its_place(tmp_path: Path, name: str, text: str, place: str) -> None:
    config = read(tmp_path, f"[connections.{name}]\n{text}\n")
    with pytest.raises(ConfigError) as told:
        all_declared(config)
    assert str(told.value).startswith(place)
