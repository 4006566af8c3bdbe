"""The dial through real proxies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from mooring.dial_options import DialSettings, ProxyRequest, ProxySettings, TlsRequest
from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialled
from mooring.wire.frames import PING, TEXT
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.proxies import PASSWORD, USER, Dante, Microsocks, ProxyProcess, Squid, Stunnel, Tinyproxy, free_port
from tests.servers import RawServer
from tests.workers.wire.conftest import Run
from tests.workers.wire.peers import (
    Talk,
    a_dialler,
    bears_failing_tls_in_tls,
    dial_with,
    echo,
    failure,
    holds_a_conversation,
)

LOCALHOST = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]  # what a proxy takes it for


class Kind(NamedTuple):
    name: str
    auth: bool


KINDS = [
    Kind(name, auth) for name in ("tinyproxy", "squid", "stunnel", "microsocks", "dante") for auth in (False, True)
]


@pytest.fixture(scope="module")
def start(files: Files) -> Iterator[Callable[[Kind], ProxyProcess]]:
    """Start a proxy, or give the one that is running."""
    running: dict[Kind, ProxyProcess] = {}
    started: list[ProxyProcess] = []

    def begin(proxy: ProxyProcess) -> ProxyProcess:
        asyncio.run(proxy.__aenter__())
        started.append(proxy)
        return proxy

    def start(kind: Kind) -> ProxyProcess:
        if kind not in running:
            if kind.name == "stunnel":
                behind = start(Kind("tinyproxy", kind.auth))
                running[kind] = begin(Stunnel(behind, files.server_cert, files.server_key))
            else:
                made = {"tinyproxy": Tinyproxy, "squid": Squid, "microsocks": Microsocks, "dante": Dante}[kind.name]
                running[kind] = begin(made(auth=kind.auth))
        return running[kind]

    yield start
    for proxy in started:
        asyncio.run(proxy.__aexit__())


def settings_for(proxy: ProxyProcess, files: Files, resolve: Any, **more: Any) -> ProxySettings:
    scheme, _, rest = proxy.url.partition("://")
    if scheme == "socks5" and resolve == "proxy":
        scheme, resolve = "socks5h", None
    credentials = {"username": USER, "password": PASSWORD} if proxy.auth else {}
    tls = TlsRequest(ca_file=files.ca) if scheme == "https" else None
    return ProxySettings(url=f"{scheme}://{rest}", resolve=resolve, tls=tls, **{**credentials, **more})


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}{' with credentials' if kind.auth else ''}")
def test_a_conversation_through_each_kind_of_proxy(
    run: Run, start: Callable[[Kind], ProxyProcess], files: Files, kind: Kind, secure: bool
) -> None:
    proxy = start(kind)
    settings = DialSettings(
        proxies={"local": settings_for(proxy, files, "local"), "remote": settings_for(proxy, files, "proxy")},
        hosts={"feed.test": ["127.0.0.1"]},
    )
    tls = TlsRequest(ca_file=files.ca) if secure else TlsRequest()
    context = server_context(files) if secure else None

    async def scenario() -> None:
        async with a_dialler(settings=settings) as dialler:
            for host, name, way, count in (
                ("127.0.0.1", "127.0.0.1", "local", 1_000),
                ("::1", "[::1]", "local", 20),
                ("127.0.0.1", "feed.test", "local", 20),
                ("127.0.0.1", "127.0.0.1", "remote", 20),
                (LOCALHOST, "localhost", "remote", 20),
            ):
                async with RawServer(echo, tls=context, host=host) as server:
                    options = ConnectionOptions(url=f"ws{'s' * secure}://{name}:{server.port}/?q=1", tls=tls)
                    dialled = await dialler.dial(replace(options, proxy=way))
                    await holds_a_conversation(dialled, count)
                    assert len(server.connections) == 1
                    assert server.connections[0].headers["host"] == f"{name}:{server.port}"
                    assert not any(name.startswith("proxy-") for name in server.connections[0].headers)

    run(scenario())


@pytest.mark.parametrize("name", ["tinyproxy", "squid", "stunnel", "microsocks", "dante"])
def test_credentials_that_are_wrong_or_missing_are_123_and_are_shown_nowhere(
    run: Run, start: Callable[[Kind], ProxyProcess], files: Files, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = start(Kind(name, True))
    caplog.set_level(logging.DEBUG)
    settings = DialSettings(
        proxies={
            "wrong": settings_for(proxy, files, "local", password="not-that-one"),
            "none": settings_for(proxy, files, "local", username=None, password=None),
        }
    )

    async def scenario() -> None:
        async with RawServer(echo) as server, a_dialler(settings=settings) as dialler:
            for way in ("wrong", "none"):
                failed = await failure(dial_with(dialler, server.url, proxy=way))
                assert failed.errors[0].err_code == ErrCode.PROXY_AUTH_FAILED
                assert f"127.0.0.1:{server.port} through proxy {way} ({proxy.scheme}://" in failed.errors[0].message
                assert "not-that-one" not in f"{failed.errors} {caplog.text}"
            assert server.connections == []

    run(scenario())


@pytest.mark.parametrize("name", ["tinyproxy", "squid", "stunnel", "microsocks", "dante"])
def test_a_target_that_is_not_there_is_told_as_the_proxy_tells_it(
    run: Run, start: Callable[[Kind], ProxyProcess], files: Files, name: str
) -> None:
    proxy = start(Kind(name, False))
    settings = DialSettings(proxies={"p": settings_for(proxy, files, "local")})

    async def scenario() -> None:
        async with a_dialler(settings=settings) as dialler:
            failed = await failure(dial_with(dialler, f"ws://127.0.0.1:{free_port()}/", proxy="p"))
            # tinyproxy answers 500 to each failure of its own.
            allowed = (ErrCode.REFUSED, ErrCode.UNREACHABLE, ErrCode.PROXY_REFUSED)
            assert failed.errors[0].err_code in allowed, failed.errors
            if name in ("microsocks", "dante"):
                assert failed.errors[0].err_code == ErrCode.REFUSED

    run(scenario())


async def test_squid_as_it_is_shipped_refuses_other_ports_than_443_and_the_text_says_so() -> None:
    async with Squid(stock=True) as proxy, RawServer(echo) as server, a_dialler() as dialler:
        failed = await failure(dial_with(dialler, server.url, proxy=ProxyRequest(url=proxy.url)))
        assert failed.errors[0].err_code == ErrCode.PROXY_REFUSED
        assert "403" in failed.errors[0].message
        assert f"port 443 only, this was port {server.port}" in failed.errors[0].message


def test_a_certificate_is_that_of_the_name_also_through_a_proxy(
    run: Run, start: Callable[[Kind], ProxyProcess], files: Files
) -> None:
    for name in ("tinyproxy", "stunnel", "microsocks"):
        settings = DialSettings(proxies={"p": settings_for(start(Kind(name, False)), files, "proxy")})

        async def scenario(settings: DialSettings, name: str) -> None:
            async with RawServer(echo, tls=server_context(files)) as server, a_dialler(settings=settings) as dialler:
                way, tls = {"proxy": "p", "addresses": ["127.0.0.1"]}, TlsRequest(ca_file=files.ca)
                options = ConnectionOptions(url=f"wss://feed.test:{server.port}/", tls=tls)
                await holds_a_conversation(await dialler.dial(replace(options, **way)), 1)
                if name == "stunnel" and not bears_failing_tls_in_tls():
                    return
                failed = await failure(dial_with(dialler, f"wss://other.test:{server.port}/", **way, tls=tls))
                assert failed.errors[0].err_code == ErrCode.TLS_FAILED
                failed = await failure(dial_with(dialler, f"wss://feed.test:{server.port}/", **way))
                assert failed.errors[0].err_code == ErrCode.TLS_FAILED, "a CA that nobody has named"

        run(scenario(settings, name))


async def test_a_password_in_a_file_is_read_for_each_dial(tmp_path: Path, files: Files) -> None:
    secret = tmp_path / "password"
    async with Tinyproxy(auth=True) as proxy, RawServer(echo) as server:
        settings = DialSettings(
            proxies={"p": ProxySettings(url=proxy.url, username=USER, password_file=str(secret), resolve="local")}
        )
        async with a_dialler(settings=settings) as dialler:
            for text, works in (
                (None, False),
                ("old", False),
                (f"{PASSWORD}\n", True),
                ("x" * 300, False),
                ("", False),
            ):
                if text is not None:
                    secret.write_text(text)
                if works:
                    dialled = await dialler.dial(ConnectionOptions(url=server.url, proxy="p"))
                    await holds_a_conversation(dialled, 1)
                else:
                    failed = await failure(dial_with(dialler, server.url, proxy="p"))
                    assert failed.errors[0].err_code == ErrCode.PROXY_AUTH_FAILED


async def test_a_proxy_that_is_asked_for_itself_ends_in_a_defined_error() -> None:
    async with Tinyproxy() as proxy, a_dialler() as dialler:
        asked = ProxyRequest(url=proxy.url)
        failed = await failure(dial_with(dialler, f"ws://127.0.0.1:{proxy.port}/", proxy=asked, connect_timeout_s=60))
        assert failed.errors[0].err_code in (ErrCode.HANDSHAKE_STATUS, ErrCode.HANDSHAKE_INVALID)


async def test_pings_keep_a_quiet_connection_through_a_proxy_that_cuts_idle_ones() -> None:
    """Twenty minutes of squid's fifteen, in seconds. In real time once, by REST with pings every 20 s: alive after 20 min 15 s."""
    async with Squid(idle_s=5) as proxy, RawServer(echo) as server, a_dialler() as dialler:
        way = dict(proxy=ProxyRequest(url=proxy.url))
        pinged, quiet = [Talk(await dialler.dial(ConnectionOptions(url=server.url, **way))) for _ in range(2)]
        deadline = time.monotonic() + 60
        while not quiet.ends and time.monotonic() < deadline:
            pinged.send(PING, b"")
            await asyncio.sleep(0.4)
        assert (pinged.ends, quiet.ends) == (0, 1)
        pinged.send(TEXT, b"still here")
        await wait_for(lambda: b"still here" in pinged.messages)
        pinged.transport.abort()


async def test_a_proxy_that_is_killed_under_load_ends_each_connection_once(files: Files) -> None:
    async with RawServer(echo, tls=server_context(files)) as server:
        async with Tinyproxy() as behind, Stunnel(behind, files.server_cert, files.server_key) as proxy:
            settings = DialSettings(proxies={"p": settings_for(proxy, files, "local")})
            async with a_dialler(settings=settings) as dialler:
                options = ConnectionOptions(url=server.url, tls=TlsRequest(ca_file=files.ca), connect_timeout_s=60)
                before = len(os.listdir("/proc/self/fd"))
                talks = [
                    Talk(dialled)
                    for dialled in await asyncio.gather(*(dialler.dial(replace(options, proxy="p")) for _ in range(30)))
                ]
                dialling = [asyncio.create_task(dialler.dial(replace(options, proxy="p"))) for _ in range(20)]
                for talk in talks:
                    talk.send(TEXT, b"x" * 10_000)
                proxy.kill()
                behind.kill()
                await wait_for(lambda: all(talk.ends for talk in talks))
                assert [talk.ends for talk in talks] == [1] * len(talks)
                for outcome in await asyncio.gather(*dialling, return_exceptions=True):
                    if isinstance(outcome, Dialled):
                        outcome.transport.abort()
                    else:
                        assert isinstance(outcome, DialFailed), outcome
                await wait_for(lambda: all(each.writer.transport.is_closing() for each in server.connections))
                await wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
