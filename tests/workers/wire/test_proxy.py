"""What is said to a proxy, and what its answers mean, however they are cut into pieces."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.errors import ErrCode
from mooring.wire.proxy import HttpConnect, ProxyError, Socks5, Tunnel


class Heard(NamedTuple):
    """What became of a conversation: whether it is open and what was sent, or the error."""

    is_open: bool
    sent: bytes
    code: ErrCode | None = None
    detail: str = ""


def converse(tunnel: Tunnel, pieces: list[bytes]) -> Heard:
    sent = tunnel.begin()
    try:
        for piece in pieces:
            sent += tunnel.feed(piece)
    except ProxyError as exc:
        return Heard(False, b"", exc.code, exc.detail)
    return Heard(tunnel.is_open, sent)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


def connect(host: str = "feed.test", port: int = 443) -> HttpConnect:
    return HttpConnect(host, port, "käthe", "pass:wörd")


def socks(host: str = "feed.test", port: int = 443) -> Socks5:
    return Socks5(host, port, "user", "secret")


OK = b"HTTP/1.1 200 OK\r\n\r\n"
BIG = b"X: " + b"x" * 1_000 + b"\r\n"
OPENS, AUTH, REFUSED, INVALID = None, ErrCode.PROXY_AUTH_FAILED, ErrCode.PROXY_REFUSED, ErrCode.PROXY_INVALID
ANSWERS: list[tuple[str, bytes, ErrCode | None]] = [
    ("200", OK, OPENS),
    (
        "a version of tinyproxy's",
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        OPENS,
    ),
    ("201", b"HTTP/1.1 201 Created\r\n\r\n", OPENS),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", OPENS),
    ("299 without a reason", b"HTTP/1.1 299\r\n\r\n", OPENS),
    ("bare line feeds", b"HTTP/1.1 200 OK\nA: b\n\n", OPENS),
    ("100 first", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" + OK, OPENS),
    ("a length that means nothing", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", OPENS),
    ("chunked that means nothing", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", OPENS),
    ("99 lines", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 98 + b"\r\n", OPENS),
    ("15 KiB", b"HTTP/1.1 200 OK\r\n" + BIG * 15 + b"\r\n", OPENS),
    ("101 lines", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100 + b"\r\n", INVALID),
    ("17 KiB", b"HTTP/1.1 200 OK\r\n" + BIG * 17 + b"\r\n", INVALID),
    ("a line without end", b"HTTP/1.1 200 " + b"x" * 20_000, INVALID),
    ("interim answers for ever", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, INVALID),
    ("bytes behind the head", OK + b"x", INVALID),
    ("the body that its length promised", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", INVALID),
    ("HTTP/2", b"HTTP/2 200\r\n\r\n", INVALID),
    ("no number", b"HTTP/1.1 OK\r\n\r\n", INVALID),
    ("status 099", b"HTTP/1.1 099 No\r\n\r\n", INVALID),
    ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", INVALID),
    ("SOCKS4", b"\x00\x5a\x00\x00\x00\x00\x00\x00", INVALID),
    ("TLS", b"\x15\x03\x01\x00\x02\x02\x46", INVALID),
    ("a folded header", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", INVALID),
    ("a header without a colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", INVALID),
    ("an empty line first", b"\r\n" + OK, INVALID),
    ("401", b"HTTP/1.1 401 Unauthorized\r\n\r\n", AUTH),
    ("407", b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n<html>", AUTH),
    ("403", b"HTTP/1.1 403 Filtered\r\n\r\n", REFUSED),
    ("405", b"HTTP/1.1 405 No\r\n\r\n", REFUSED),
    ("500", b"HTTP/1.1 500 Unable to connect\r\n\r\n", REFUSED),
    ("302", b"HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n", REFUSED),
    ("101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", REFUSED),
    ("502", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ErrCode.UNREACHABLE),
    ("503", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", ErrCode.UNREACHABLE),
    ("504", b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", ErrCode.UNREACHABLE),
]
GREETED, LOGGED_IN = b"\x05\x02", b"\x01\x00"
V4, V6, NAME = b"\x01\x0a\x00\x00\x01", b"\x04" + bytes(16), b"\x03\x09localhost"
REPLIES: list[tuple[str, bytes, ErrCode | None]] = [
    ("an IPv4 address", GREETED + LOGGED_IN + b"\x05\x00\x00" + V4 + b"\x04\x38", OPENS),
    ("an IPv6 address", GREETED + LOGGED_IN + b"\x05\x00\x00" + V6 + b"\x04\x38", OPENS),
    ("a name", GREETED + LOGGED_IN + b"\x05\x00\x00" + NAME + b"\x04\x38", OPENS),
    ("an empty name", GREETED + LOGGED_IN + b"\x05\x00\x00\x03\x00\x04\x38", OPENS),
    ("no authentication wanted", b"\x05\x00\x05\x00\x00" + V4 + b"\x04\x38", OPENS),
    ("a reserved byte that is set", b"\x05\x00\x05\x00\xff" + V4 + b"\x04\x38", OPENS),
    ("bytes behind it", b"\x05\x00\x05\x00\x00" + V4 + b"\x04\x38x", INVALID),
    ("no method", b"\x05\xff", AUTH),
    ("GSSAPI", b"\x05\x01", INVALID),
    ("wrong credentials", GREETED + b"\x01\x01", AUTH),
    ("another version of the login", GREETED + b"\x05\x00", INVALID),
    ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n", INVALID),
    ("SOCKS4", b"\x00\x5b\x00\x00\x00\x00\x00\x00", INVALID),
    ("SOCKS4 behind the greeting", b"\x05\x00\x00\x5a", INVALID),
    ("no kind of address", b"\x05\x00\x05\x00\x00\x02", INVALID),
    *(
        (f"reply {reply}", b"\x05\x00\x05" + bytes((reply,)) + b"\x00" + V4 + b"\x04\x38", code)
        for reply, code in (
            (1, REFUSED), (2, REFUSED), (3, ErrCode.UNREACHABLE), (4, ErrCode.UNREACHABLE), (5, ErrCode.REFUSED),
            (6, ErrCode.UNREACHABLE), (7, INVALID), (8, INVALID), (9, INVALID), (255, INVALID),
        )
    ),
]  # fmt: skip
ALL: list[tuple[str, Callable[[], Tunnel], bytes, ErrCode | None]] = [
    *((f"CONNECT: {name}", connect, data, code) for name, data, code in ANSWERS),
    *((f"SOCKS5: {name}", socks, data, code) for name, data, code in REPLIES),
]


@pytest.mark.parametrize(("make", "data", "code"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_what_an_answer_means(make: Callable[[], Tunnel], data: bytes, code: ErrCode | None) -> None:
    heard = converse(make(), [data])
    assert (heard.is_open, heard.code) == (code is None, code), heard
    assert converse(make(), [bytes((byte,)) for byte in data]) == heard, "byte by byte"


@given(st.sampled_from(ALL), st.lists(st.integers(0, 30_000), max_size=12))
def test_how_an_answer_is_cut_changes_nothing(
    row: tuple[str, Callable[[], Tunnel], bytes, ErrCode | None], places: list[int]
) -> None:
    _, make, data, _ = row
    assert converse(make(), cut(data, places)) == converse(make(), [data])


PREFIXES = [b"", OK[:9], OK, b"HTTP/1.1 407 ", GREETED, GREETED + LOGGED_IN, b"\x05\x00\x05\x00\x00\x03"]


@given(
    st.sampled_from([connect, socks]),
    st.sampled_from(PREFIXES),
    st.binary(max_size=400),
    st.lists(st.integers(0, 500), max_size=6),
)
def test_garbage_opens_or_waits_or_is_a_defined_error_and_shows_no_credential(
    make: Callable[[], Tunnel], prefix: bytes, garbage: bytes, places: list[int]
) -> None:
    heard = converse(make(), cut(prefix + garbage, places))
    assert heard.code is None or heard.code in ErrCode
    assert heard == converse(make(), [prefix + garbage])
    for secret in ("käthe", "wörd", "secret", base64.b64encode("käthe:pass:wörd".encode()).decode()):
        assert secret not in heard.detail


def test_connect_names_the_target_in_both_places_and_brings_the_credentials() -> None:
    head = connect().begin().decode()
    assert head.startswith("CONNECT feed.test:443 HTTP/1.1\r\nHost: feed.test:443\r\nUser-Agent: mooring/")
    credentials = base64.b64encode("käthe:pass:wörd".encode()).decode()
    assert f"\r\nProxy-Authorization: Basic {credentials}\r\n" in head
    assert head.endswith("\r\n\r\n")
    assert "Authorization" not in HttpConnect("feed.test", 80).begin().decode()
    assert (
        HttpConnect("2001:db8::1", 80)
        .begin()
        .startswith(b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n")
    )


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", b"\x01\x0a\x00\x00\x07"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("feed.test", b"\x03\x09feed.test"),
    ],
)
def test_socks_says_an_address_as_an_address_and_a_name_as_a_name(host: str, address: bytes) -> None:
    heard = converse(Socks5(host, 258, "user", "secret"), [GREETED, LOGGED_IN])
    assert heard.sent == b"\x05\x02\x00\x02" + b"\x01\x04user\x06secret" + b"\x05\x01\x00" + address + b"\x01\x02"
    assert converse(Socks5(host, 258), []).sent == b"\x05\x01\x00", "nothing to log in with, nothing offered"


def test_a_refusal_of_another_port_than_443_says_what_may_be_the_reason() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\n\r\n"
    assert "port 443 only, this was port 80" in converse(connect(port=80), [refusal]).detail
    assert "443" not in converse(connect(port=443), [refusal]).detail


def test_the_words_of_a_proxy_are_not_repeated() -> None:
    assert "secret" not in converse(connect(), [b"HTTP/1.1 407 user:secret\r\n\r\n"]).detail
