"""What may be said of a proxy, in a request and in the configuration."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from mooring.dial_options import (
    DialShown,
    ProxyRequest,
    ProxySettings,
    TlsRequest,
    check_proxy,
    declared_proxy,
    dial_shown,
    split_proxy_url,
)

GOOD = [
    "http://proxy.example:3128", "https://10.0.0.1:443", "socks5://[::1]:1080", "http://a_b.test:1", "http://bücher.test:65535",
]  # fmt: skip
BAD_URLS = [
    "", "proxy:3128", "http://proxy", "http://proxy:", "http://proxy:0", "http://proxy:65536", "http://proxy:1/", "http://proxy:1/a",
    "http://proxy:1?a", "http://proxy:1#a", "http://user:secret@proxy:1", "http://@proxy:1", "http://:1", "http://[::1:1", "http://::1:1",
    "socks4://proxy:1", "socks4a://proxy:1", "socks://proxy:1", "ftp://proxy:1", "HTTP://proxy:1", "http:/proxy:1", "http://pro xy:1",
    "http://proxy\r\nX: y:1", "http://proxy:1\n", "http://pro%20xy:1", "http://proxy\0:1", "http://pro\\xy:1",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_urls_of_proxies(url: str) -> None:
    assert check_proxy(ProxyRequest(url=url)) == []
    scheme, host, port = split_proxy_url(url)
    assert url in (f"{scheme}://{host}:{port}", f"{scheme}://[{host}]:{port}")


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_none(url: str) -> None:
    (wrong,) = check_proxy(ProxyRequest(url=url))
    assert wrong.pointer == "/proxy/url"
    assert "secret" not in wrong.detail


REQUEST, SETTINGS = ProxyRequest, ProxySettings


@pytest.mark.parametrize(
    ("kind", "said", "pointers"),
    [
        (REQUEST, {"url": "http://p:1", "username": "u", "password": "p"}, []),
        (REQUEST, {"url": "socks5://p:1", "username": "a:b", "password": "ü" * 127}, []),
        (REQUEST, {"url": "http://p:1", "username": "u"}, ["/password"]),
        (REQUEST, {"url": "http://p:1", "password": "p"}, ["/username"]),
        (REQUEST, {"url": "http://p:1", "username": "a:b", "password": "p"}, ["/username"]),
        (REQUEST, {"url": "http://p:1", "username": "u", "password": "ü" * 128}, ["/password"]),
        (REQUEST, {"url": "http://p:1", "username": "", "password": "p"}, ["/username"]),
        (REQUEST, {"url": "http://p:1", "username": "u\r\nX", "password": "p\0"}, ["/username", "/password"]),
        (REQUEST, {"url": "http://p:1", "username": "u", "password": "\ud800"}, ["/password"]),
        (REQUEST, {"url": "http://p:1", "tls": TlsRequest()}, ["/tls"]),
        (REQUEST, {"url": "https://p:1", "tls": TlsRequest()}, []),
        (REQUEST, {"url": "http://p:1", "resolve": "proxy"}, []),
        (REQUEST, {"url": "socks5h://p:1"}, ["/url"]),
        (REQUEST, {"url": "socks5h://p:1", "resolve": "proxy"}, ["/url"]),
        (SETTINGS, {"url": "socks5h://p:1"}, []),
        (SETTINGS, {"url": "socks5h://p:1", "resolve": "proxy"}, []),
        (SETTINGS, {"url": "socks5h://p:1", "resolve": "local"}, ["/resolve"]),
        (SETTINGS, {"url": "http://p:1", "username": "u", "password_file": "/f"}, []),
        (SETTINGS, {"url": "http://p:1", "password_file": "/f"}, ["/username"]),
        (SETTINGS, {"url": "http://p:1", "username": "u", "password": "p", "password_file": "/f"}, ["/password"]),
    ],
)
def test_what_goes_together(kind: Any, said: dict[str, Any], pointers: list[str]) -> None:
    wrong = check_proxy(kind(**said), "")
    assert [fault.pointer for fault in wrong] == pointers
    for fault in wrong:
        assert "\n" not in fault.detail


def test_a_request_has_no_file_of_ours_read() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "http://p:1", "username": "u", "password_file": "/etc/passwd"}, ProxyRequest)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "http://p:1", "username": "u", "passwordFile": "/etc/passwd"}, ProxyRequest)


def test_the_files_of_a_proxys_tls_are_absolute_paths_in_a_request_too() -> None:
    asked = ProxyRequest("https://proxy.test:1", tls=TlsRequest(ca_file="ca.pem", key_file="/key.pem"))
    assert [fault.pointer for fault in check_proxy(asked)] == ["/proxy/tls/keyFile", "/proxy/tls/caFile"]


def test_a_record_shows_what_was_asked_for_without_credentials_and_nothing_else() -> None:
    assert msgspec.to_builtins(dial_shown(UNSET, "any", [], None)) == {}
    proxy = ProxyRequest("http://proxy.test:1", username="us3r", password="s3cr3t")
    assert msgspec.to_builtins(dial_shown(proxy, "ipv6", ["::1"], "::1")) == {
        "proxy": "http://proxy.test:1", "family": "ipv6", "addresses": ["::1"], "localAddress": "::1",
    }  # fmt: skip
    assert msgspec.to_builtins(dial_shown(None, "any", [], None)) == {"proxy": None}  # none is something that was said
    for shown in (DialShown(), DialShown(proxy=None), DialShown(proxy="corp")):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(shown), type=DialShown) == shown


def test_a_declared_connection_says_false_where_a_create_body_says_null() -> None:
    assert declared_proxy(False) is None
    assert declared_proxy("corp") == "corp"
    assert declared_proxy({"url": "http://proxy.test:1"}) == {"url": "http://proxy.test:1"}
