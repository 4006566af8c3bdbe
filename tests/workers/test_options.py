"""What a connection may be asked for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.checks import check_close, check_headers, check_protocols, check_url, check_worker_name
from mooring.connection.asked import resolve
from mooring.dial_options import ProxyRequest, TlsRequest
from mooring.handler_options import from_handler
from mooring.options import ConnectionRequest, check_request

GOOD_URLS = ["ws://a", "wss://a/", "ws://a:65535/x?y=1", "WS://a/", "ws://[::1]:80/", "ws://münchen.example/ü", "ws://127.0.0.1/a%20b"]  # fmt: skip
BAD_URLS = ["", "a", "http://a", "ws:a", "ws:/a", "ws://", "ws://a#", "ws://a/#x", "ws://u@a", "ws://u:p@a", "ws://a:0/", "ws://a:/", "ws://a:65536/", "ws://a:x/", "ws://a b/", "ws://a/\r\nX: y", "ws://a/\n", "ws://a\\b", "ws://[::1/", "ws://a/\x00", "ws://\ud800/", "file:///etc/passwd", "ws://" + "a" * 254, "ws://a/" + "x" * 9000, "javascript:alert(1)", "ws://a%00b/"]  # fmt: skip


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_that_are_taken(url: str) -> None:
    assert check_url(url) == []


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_refused(url: str) -> None:
    (wrong,) = check_url(url)
    assert wrong.pointer == "/url"


def test_an_error_text_does_not_carry_the_query() -> None:
    for url in ("ws://a:x/?token=SECRET", "ws://[::1/?token=SECRET", "http://a?token=SECRET"):
        assert "SECRET" not in check_url(url)[0].detail


@pytest.mark.parametrize("code", [None, 1000, 3000, 4999])
def test_close_codes_that_may_be_sent(code: int | None) -> None:
    assert check_close(code, "x" * 123) == []


@pytest.mark.parametrize("code", [0, 999, 1001, 1004, 1005, 1006, 1015, 2999, 5000, 70000, -1, True])
def test_close_codes_that_may_not(code: int) -> None:
    assert check_close(code, None)


@pytest.mark.parametrize("reason", ["x" * 124, "ü" * 62, "\ud800"])
def test_close_reasons_that_do_not_fit(reason: str) -> None:
    assert check_close(1000, reason)


BAD_HEADERS = [{"": "x"}, {"A B": "x"}, {"A:": "x"}, {"Host": "x"}, {"host": "x"}, {"Connection": "x"}, {"Upgrade": "x"}, {"Sec-WebSocket-Key": "x"}, {"sec-websocket-extensions": "x"}, {"Content-Length": "0"}, {"Transfer-Encoding": "chunked"}, {"A": "x\r\ny"}, {"A": "x\0"}, {"A": "\n"}, {"A": ["ok", "x\ry"]}, {"A": []}, {"Cookie": ["a=1", "b=2"]}, {"A": "\ud800"}, {"Ä": "x"}, {f"X-{n}": "y" for n in range(10_000)}, {"A": "x" * 100_000}]  # fmt: skip


@pytest.mark.parametrize(
    "headers", BAD_HEADERS, ids=lambda headers: str(headers)[:30].encode("ascii", "replace").decode()
)
def test_headers_that_are_refused_without_quoting_a_value(headers: dict[str, object]) -> None:
    wrong = check_headers(headers)
    assert wrong
    assert len(wrong) <= 22
    assert all(error.pointer.startswith("/headers") for error in wrong)


def test_headers_that_are_taken() -> None:
    assert (
        check_headers({"Authorization": "Bearer x", "X": ["a", "b"], "Cookie": "a=1; b=2", "Y": "", "Z": "ümlaut"})
        == []
    )


@pytest.mark.parametrize("protocols", [["a,b"], [""], ["a b"], ["a", "a"], ["ä"], ["a"] * 51])
def test_subprotocols_that_are_refused(protocols: list[str]) -> None:
    assert check_protocols(protocols)


@pytest.mark.parametrize("name", ["a", "A9", "a.b_c-d", "x" * 63])
def test_worker_names_that_are_taken(name: str) -> None:
    assert check_worker_name(name) == []


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "x" * 64, "ä", "a\n", "../../etc"])
def test_worker_names_that_are_refused(name: str) -> None:
    assert check_worker_name(name)


def _request(**options: object) -> ConnectionRequest:
    return ConnectionRequest(url="wss://a/", **options)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"connect_timeout": 0.0}, "/connectTimeout"),
        ({"connect_timeout": float("nan")}, "/connectTimeout"),
        ({"connect_timeout": float("inf")}, "/connectTimeout"),
        ({"close_timeout": -1.0}, "/closeTimeout"),
        ({"ping_interval": -1.0}, "/pingInterval"),
        ({"ping_timeout": 0.0}, "/pingTimeout"),
        ({"send_timeout": 1e9}, "/sendTimeout"),
        ({"max_message_size": 0}, "/maxMessageSize"),
        ({"max_message_size": 2**70}, "/maxMessageSize"),
        ({"tls": TlsRequest(key_file="/k")}, "/tls/keyFile"),
        ({"tls": TlsRequest(ca_file="relative.pem")}, "/tls/caFile"),
    ],
)
def test_settings_out_of_range_point_at_their_place(options: dict[str, object], pointer: str) -> None:
    assert [wrong.pointer for wrong in check_request(_request(**options))] == [pointer]


def test_what_the_request_says_beats_what_the_handler_says() -> None:
    class Handler:
        data_type = "blob"
        headers = {"A": "handler", "B": "handler"}
        ping_interval = 7.0

    options = resolve(_request(headers={"a": "request"}, data_type="object"), Handler())
    assert options.data_type == "object"
    assert options.ping_interval_s == 7.0
    assert sorted((name.lower(), value) for name, value in options.headers) == [("a", "request"), ("b", "handler")]
    assert resolve(from_handler(Handler(), "ws://a"), Handler()).data_type == "blob"


@given(st.text(max_size=200))
def test_any_text_as_url_is_decided_without_an_exception(text: str) -> None:
    check_url(text)
    check_url("ws://" + text)


@given(
    st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.lists(st.text(max_size=20), max_size=3), max_size=5)
)
def test_any_headers_are_decided_and_what_passes_is_safe_on_the_wire(headers: dict[str, str | list[str]]) -> None:
    if check_headers(headers) == []:
        for name, value in headers.items():
            for item in [name, value] if isinstance(value, str) else [name, *value]:
                assert not set(item) & {"\r", "\n", "\0"}


@pytest.mark.parametrize("scheme", ["ws", "WS", "Ws"])
def test_tls_is_for_wss_however_the_scheme_is_spelled(scheme: str) -> None:
    asked = ConnectionRequest(url=f"{scheme}://a/", tls=TlsRequest(verify=True))
    assert [wrong.pointer for wrong in check_request(asked)] == ["/tls"]
    assert check_request(ConnectionRequest(url="WSS://a/", tls=TlsRequest(verify=True))) == []


@pytest.mark.parametrize(
    ("said", "pointers"),
    [
        ({"proxy": "corp"}, []),
        ({"proxy": None}, []),
        ({"proxy": {"url": "http://p:1", "username": "u", "password": "p"}}, []),
        ({"proxy": {"url": "socks5h://p:1"}}, ["/proxy/url"]),
        ({"proxy": {"url": "http://u:p@p:1"}}, ["/proxy/url"]),
        ({"proxy": "http://p:1"}, ["/proxy"]),
        ({"proxy": ""}, ["/proxy"]),
        ({"family": "ipv6", "addresses": ["::1"], "localAddress": "::1"}, []),
        ({"addresses": ["10.0.0.1", "::1"], "family": "ipv6"}, []),
        ({"addresses": ["10.0.0.1"], "family": "ipv6"}, ["/addresses"]),
        ({"localAddress": "10.0.0.1", "family": "ipv6"}, ["/localAddress"]),
        ({"localAddress": "10.0.0.1", "family": "ipv6", "proxy": "corp"}, []),
        ({"localAddress": "10.0.0.1", "family": "ipv6", "proxy": None}, ["/localAddress"]),
        ({"addresses": ["feed.test", "10.0.0.1", "10.0.0.1:80"]}, ["/addresses/0", "/addresses/2"]),
        ({"addresses": ["10.0.0.1"] * 9}, ["/addresses"]),
        ({"localAddress": "eth0"}, ["/localAddress"]),
    ],
)
def test_the_way_of_a_dial(said: dict[str, object], pointers: list[str]) -> None:
    request = msgspec.convert({"url": "ws://a", **said}, ConnectionRequest)
    assert [fault.pointer for fault in check_request(request)] == pointers


@pytest.mark.parametrize(
    "said",
    [{"family": "ipv5"}, {"proxy": 7}, {"proxy": {}}, {"proxy": {"url": "http://p:1", "x": 1}}, {"addresses": "::1"}],
)
def test_the_way_of_a_dial_has_its_types(said: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "ws://a", **said}, ConnectionRequest)


def test_a_handler_may_name_the_way_and_a_request_beats_it() -> None:
    class Handler:
        proxy = {"url": "https://p:1", "username": "u", "password": "p", "tls": {"ca_file": "/ca.pem"}}
        local_address = "10.0.0.1"

    class Direct:
        proxy = None

    found = resolve(ConnectionRequest(url="ws://a"), Handler())
    tls = TlsRequest(ca_file="/ca.pem")
    assert found.proxy == ProxyRequest(url="https://p:1", username="u", password="p", tls=tls)
    assert found.local_address == "10.0.0.1"
    assert resolve(ConnectionRequest(url="ws://a", proxy=None), Handler()).proxy is None
    assert resolve(ConnectionRequest(url="ws://a", proxy="corp"), Direct()).proxy == "corp"
    assert resolve(ConnectionRequest(url="ws://a"), Direct()).proxy is None
    assert resolve(ConnectionRequest(url="ws://a")).proxy is msgspec.UNSET
