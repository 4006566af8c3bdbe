"""Secrets: read when they are needed, sent only where they may go, shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring.connection.secret_headers import check_secrets, has_templates, secrets_of, with_secrets
from mooring.dial_options import BoundSecret, ProxyRequest, secret_faults
from mooring.errors import ErrCode, InvalidRequest
from mooring.name_errors import SecretNotAllowed
from mooring.options import ConnectionOptions
from mooring.wire.failure import DialFailed
from mooring.wire.secret_table import MAX_SECRET_BYTES, NoSecret, Secrets, places_of, read_source


def test_a_file_is_read_as_it_is_now_without_its_last_line_feed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    secrets = Secrets({"feed": f"file:{file}"})
    for text, value in (("one\n", "one"), ("two", "two"), ("three\r\n", "three"), (" f\n\n", " f\n")):
        file.write_bytes(text.encode())
        assert secrets.read("feed") == value


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is not UTF-8"), (b"x" * (MAX_SECRET_BYTES + 1), "longer than")],
)
def test_a_file_that_holds_no_text_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(NoSecret, match=words) as told:
        read_source(f"file:{file}")
    assert str(file) in str(told.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, words in (
        ("pipe", "is no file"),
        ("gone", "cannot be read: No such file"),
        (".", "is no file|Is a directory"),
    ):
        with pytest.raises(NoSecret, match=words):
            read_source(f"file:{tmp_path}/{place}")


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_TOKEN", "abc")
    assert read_source("env:FEED_TOKEN") == "abc"
    monkeypatch.delenv("FEED_TOKEN")
    with pytest.raises(NoSecret, match="the variable FEED_TOKEN is not set"):
        read_source("env:FEED_TOKEN")


@pytest.mark.parametrize(
    "source", ["abc", "file:", "file:relative", "file:/a\0", "env:", "env:1A", "env:A B", "vault:x"]
)
def test_a_source_that_is_none_is_refused(source: str) -> None:
    assert [fault.pointer for fault in secret_faults(source)] == [""]
    assert [fault.pointer for fault in secret_faults(BoundSecret(source))] == ["/from"]


ENTRIES = ["*.exchange.test:443", "feed.test", "127.0.0.0/8"]


@pytest.mark.parametrize(
    "url",
    [
        "wss://a.exchange.test/",
        "WSS://A.Exchange.Test:443/x",
        "ws://feed.test/",
        "ws://feed.test.:81/",
        "ws://127.1.2.3:9/",
    ],
)
def test_a_bound_secret_may_go_to_its_hosts(url: str) -> None:
    Secrets({"feed": BoundSecret("env:A", ENTRIES)}).check_bound("feed", places_of(url))


@pytest.mark.parametrize(
    ("url", "addresses", "proxy", "host"),
    [
        ("wss://exchange.test/", [], None, "exchange.test"),
        ("wss://a.exchange.test:444/", [], None, "a.exchange.test"),
        ("ws://a.exchange.test.evil.test:443/", [], None, "a.exchange.test.evil.test"),
        ("ws://128.0.0.1/", [], None, "128.0.0.1"),
        # What a request has dialled in its stead is somebody else.
        ("ws://feed.test/", ["192.0.2.1"], None, "192.0.2.1"),
        ("ws://feed.test/", ["127.0.0.1", "::1"], None, "::1"),
        ("ws://feed.test/", [], ProxyRequest(url="http://proxy.test:3128"), "proxy.test"),
    ],
)
def test_a_secret_goes_nowhere_else(url: str, addresses: list[str], proxy: ProxyRequest | None, host: str) -> None:
    secrets = Secrets({"feed": BoundSecret("env:A", ENTRIES)})
    with pytest.raises(SecretNotAllowed) as told:
        secrets.check_bound("feed", places_of(url, addresses, proxy))
    assert (told.value.secret, told.value.host) == ("feed", host)


def test_one_that_is_bound_to_nothing_serves_what_the_configuration_declares_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A", "value")
    for source in ("env:A", BoundSecret("env:A")):
        secrets = Secrets({"feed": source})
        assert secrets.values(["feed"], places_of("ws://feed.test/"), declared=True) == {"feed": "value"}
        with pytest.raises(DialFailed) as told:
            secrets.values(["feed"], places_of("ws://feed.test/"), declared=False)
        assert told.value.code == ErrCode.POLICY_REFUSED and told.value.policy


def options(*headers: tuple[str, str]) -> ConnectionOptions:
    return ConnectionOptions(url="ws://feed.test/", headers=list(headers))


def test_headers_are_filled_for_one_attempt_and_a_literal_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "value")
    secrets = Secrets({"feed": BoundSecret("env:A", ["feed.test"])})
    asked = options(("Authorization", "Bearer ${secret:feed}"), ("X", "$${secret:feed} ${other}"), ("Y", "plain"))
    assert secrets_of(asked.headers) == {"feed": "/headers/Authorization"}
    assert with_secrets(asked, secrets, declared=False).headers == [
        ("Authorization", "Bearer value"),
        ("X", "${secret:feed} ${other}"),
        ("Y", "plain"),
    ]
    assert asked.headers[0] == ("Authorization", "Bearer ${secret:feed}")
    plain = options(("Y", "plain"))
    assert has_templates(asked.headers) and not has_templates(plain.headers)


def test_a_value_that_no_header_can_hold_is_a_failed_attempt_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "canary\nX: y")
    with pytest.raises(DialFailed) as told:
        with_secrets(options(("X", "${secret:feed}")), Secrets({"feed": "env:A"}), declared=True)
    assert (
        told.value.code == ErrCode.RENEW_FAILED and "secret:feed" in str(told.value) and "canary" not in str(told.value)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${secret:fed}", "no 'fed'; did you mean 'feed'"),
        ("${secret:}", "is none of"),
        ("a ${secret:feed", "not closed"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_begun(text: str, words: str) -> None:
    secrets = Secrets({"feed": BoundSecret("env:NOT_SET_AT_ALL", ["feed.test"])})
    with pytest.raises(InvalidRequest, match=words) as told:
        check_secrets(options(("X", text)), secrets, declared=False)
    assert [error.pointer for error in told.value.errors] == ["/headers/X"]


def test_one_without_a_value_is_told_before_anything_is_begun() -> None:
    secrets = Secrets({"feed": BoundSecret("env:NOT_SET_AT_ALL", ["feed.test"])})
    with pytest.raises(InvalidRequest, match="NOT_SET_AT_ALL is not set"):
        check_secrets(options(("X", "${secret:feed}")), secrets, declared=False)
