"""The dial through proxies: real ones, fake ones, and what the egress policy makes of both."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions, TlsRequest
from mooring.proxies import DialSettings, ProxyRequest, ProxySettings
from mooring.wire.dial import DialFailed, Dialled, Dialler
from mooring.wire.egress import EgressPolicy
from mooring.wire.frames import CLOSE, PING, TEXT, FrameParser, close_payload, encode_frame
from mooring.wire.route import Way
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.proxies import PASSWORD, USER, Dante, Microsocks, ProxyProcess, Squid, Stunnel, Tinyproxy, free_port
from tests.servers import RawConnection, RawServer, frame
from tests.workers.wire.conftest import Run

LOCALHOST = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]  # what a proxy takes it for
SERVER_FIRST = b"before you ask"


# The two ends.


async def echo(connection: RawConnection) -> None:
    """Says something first, in the packet of the 101; then echoes."""
    await connection.accept(after=frame(TEXT, SERVER_FIRST))
    while True:
        opcode, payload = await connection.read_frame()
        connection.writer.write(frame(10 if opcode == PING else opcode, payload))
        if opcode == CLOSE:
            return


class Talk(asyncio.Protocol):
    """A WebSocket client on what a dial has made."""

    def __init__(self, dialled: Dialled) -> None:
        self.transport = dialled.transport
        self.parser = FrameParser(2**20, None)
        self.messages: list[bytes] = []
        self.ends = 0
        dialled.transport.set_protocol(self)
        self.data_received(dialled.tail)
        dialled.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.messages += [payload for opcode, payload in self.parser.feed(data) if opcode == TEXT]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends += 1

    def send(self, opcode: int, payload: bytes) -> None:
        self.transport.write(encode_frame(opcode, payload, os.urandom(4)))


async def holds_a_conversation(dialled: Dialled, count: int) -> None:
    """Send and get back `count` messages, and close: every byte in order, the server's first one once."""
    talk = Talk(dialled)
    sent = [b"message %d" % number for number in range(count)]
    for message in sent:
        talk.send(TEXT, message)
    await wait_for(lambda: len(talk.messages) > count or talk.ends)
    assert talk.messages == [SERVER_FIRST, *sent]
    talk.send(CLOSE, close_payload(1000))
    await wait_for(lambda: talk.parser.peer_close is not None or talk.ends)
    assert talk.parser.peer_close == (1000, "")
    talk.transport.abort()
    await wait_for(lambda: talk.ends)
    assert talk.ends == 1


def bears_failing_tls_in_tls() -> bool:
    """Whether this loop can end TLS in TLS that fails; asyncio's own raises a TypeError in 3.11 (workers run on uvloop)."""
    return "uvloop" in type(asyncio.get_running_loop()).__module__


@asynccontextmanager
async def a_dialler(policy: EgressPolicy | None = None, **more: Any) -> AsyncIterator[Dialler]:
    dialler = Dialler(policy or EgressPolicy(), **more)
    try:
        yield dialler
    finally:
        await dialler.close()


async def failure(dialler: Dialler, url: str, way: Way | None = None, **options: Any) -> DialFailed:
    with pytest.raises(DialFailed) as failed:
        (await dialler.dial(ConnectionOptions(url=url, **options), way)).transport.abort()
    return failed.value


# Real ones.


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
                    dialled = await dialler.dial(options, Way(proxy=way))
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
                failed = await failure(dialler, server.url, Way(proxy=way))
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
            failed = await failure(dialler, f"ws://127.0.0.1:{free_port()}/", Way(proxy="p"))
            # tinyproxy answers 500 to each failure of its own.
            allowed = (ErrCode.REFUSED, ErrCode.UNREACHABLE, ErrCode.PROXY_REFUSED)
            assert failed.errors[0].err_code in allowed, failed.errors
            if name in ("microsocks", "dante"):
                assert failed.errors[0].err_code == ErrCode.REFUSED

    run(scenario())


async def test_squid_as_it_is_shipped_refuses_other_ports_than_443_and_the_text_says_so() -> None:
    async with Squid(stock=True) as proxy, RawServer(echo) as server, a_dialler() as dialler:
        failed = await failure(dialler, server.url, Way(proxy=ProxyRequest(url=proxy.url)))
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
                way, tls = Way(proxy="p", addresses=["127.0.0.1"]), TlsRequest(ca_file=files.ca)
                options = ConnectionOptions(url=f"wss://feed.test:{server.port}/", tls=tls)
                await holds_a_conversation(await dialler.dial(options, way), 1)
                if name == "stunnel" and not bears_failing_tls_in_tls():
                    return
                failed = await failure(dialler, f"wss://other.test:{server.port}/", way, tls=tls)
                assert failed.errors[0].err_code == ErrCode.TLS_FAILED
                failed = await failure(dialler, f"wss://feed.test:{server.port}/", way)
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
                    dialled = await dialler.dial(ConnectionOptions(url=server.url), Way(proxy="p"))
                    await holds_a_conversation(dialled, 1)
                else:
                    failed = await failure(dialler, server.url, Way(proxy="p"))
                    assert failed.errors[0].err_code == ErrCode.PROXY_AUTH_FAILED


async def test_a_proxy_that_is_asked_for_itself_ends_in_a_defined_error() -> None:
    async with Tinyproxy() as proxy, a_dialler() as dialler:
        asked = ProxyRequest(url=proxy.url)
        failed = await failure(dialler, f"ws://127.0.0.1:{proxy.port}/", Way(proxy=asked), connect_timeout_s=3)
        assert failed.errors[0].err_code in (ErrCode.HANDSHAKE_STATUS, ErrCode.HANDSHAKE_INVALID)


async def test_pings_keep_a_quiet_connection_through_a_proxy_that_cuts_idle_ones() -> None:
    """Twenty minutes of squid's fifteen, in seconds."""
    async with Squid(idle_s=2) as proxy, RawServer(echo) as server, a_dialler() as dialler:
        way = Way(proxy=ProxyRequest(url=proxy.url))
        pinged, quiet = [Talk(await dialler.dial(ConnectionOptions(url=server.url), way)) for _ in range(2)]
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
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
                options = ConnectionOptions(url=server.url, tls=TlsRequest(ca_file=files.ca), connect_timeout_s=30)
                before = len(os.listdir("/proc/self/fd"))
                talks = [
                    Talk(dialled)
                    for dialled in await asyncio.gather(*(dialler.dial(options, Way(proxy="p")) for _ in range(30)))
                ]
                dialling = [asyncio.create_task(dialler.dial(options, Way(proxy="p"))) for _ in range(20)]
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


# Fake ones.

Script = Callable[[RawConnection], Awaitable[None]]


def answers(data: bytes, *, piecewise: bool = False, then: Script | None = None) -> Script:
    """Read the head of the request, answer with `data`."""

    async def script(connection: RawConnection) -> None:
        await connection.read_request()
        for piece in [bytes((byte,)) for byte in data] if piecewise else [data]:
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(0)
        if then is not None:
            await then(connection)
        else:
            await connection.reader.read()

    return script


def speaks(*replies: bytes, piecewise: bool = False, then: Script | None = None) -> Script:
    """Answer whatever comes, one time after the other."""

    async def script(connection: RawConnection) -> None:
        for reply in replies:
            await connection.reader.read(1_000)
            for piece in [bytes((byte,)) for byte in reply] if piecewise else [reply]:
                connection.writer.write(piece)
                await asyncio.sleep(0)
        if then is not None:
            await then(connection)
        else:
            await connection.reader.read()

    return script


async def is_the_server(connection: RawConnection) -> None:
    await connection.read_request()
    await echo(connection)


async def is_silent(connection: RawConnection) -> None:
    await connection.reader.read()


async def hangs_up(connection: RawConnection) -> None:
    await connection.reader.read(10)


async def resets(connection: RawConnection) -> None:
    await connection.reader.read(10)
    connection.reset()


OK, SOCKS_OK = b"HTTP/1.1 200 OK\r\n\r\n", b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
GOOD = [
    ("200 in pieces", "http", answers(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", piecewise=True, then=is_the_server)),
    ("HTTP/1.0", "http", answers(b"HTTP/1.0 200 OK\r\n\r\n", then=is_the_server)),
    ("201", "http", answers(b"HTTP/1.1 201 Created\r\n\r\n", then=is_the_server)),
    ("204", "http", answers(b"HTTP/1.1 204 No Content\r\n\r\n", then=is_the_server)),
    ("100 first", "http", answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, then=is_the_server)),
    ("a length", "http", answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", then=is_the_server)),
    ("chunked", "http", answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", then=is_the_server)),
    ("SOCKS5 in pieces", "socks5", speaks(b"\x05\x00", SOCKS_OK, piecewise=True, then=is_the_server)),
    ("a name as bind address", "socks5", speaks(b"\x05\x00", b"\x05\x00\x00\x03\x09localhost\x00\x50", then=is_the_server)),
]  # fmt: skip
INVALID, REFUSED = ErrCode.PROXY_INVALID, ErrCode.PROXY_REFUSED
BAD = [
    ("a head of 1 MB", "http", answers(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 170_000), INVALID),
    ("a line of 1 MB", "http", answers(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000), INVALID),
    ("500 lines", "http", answers(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), INVALID),
    ("bytes behind the head", "http", answers(OK + b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), INVALID),
    ("garbage", "http", answers(b"\x16\x03\x01garbage"), INVALID),
    ("a reply of SOCKS4 to CONNECT", "http", answers(b"\x00\x5a" + bytes(6)), INVALID),
    ("hangs up", "http", hangs_up, INVALID),
    ("resets", "http", resets, INVALID),
    ("302", "http", answers(b"HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n"), REFUSED),
    ("502", "http", answers(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), ErrCode.UNREACHABLE),
    ("silence", "http", is_silent, ErrCode.CONNECT_TIMEOUT),
    ("half a head", "http", answers(b"HTTP/1.1 200 OK\r\n"), ErrCode.CONNECT_TIMEOUT),
    ("a reply of SOCKS4", "socks5", speaks(b"\x00\x5b" + bytes(6)), INVALID),
    ("HTTP to SOCKS5", "socks5", speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n"), INVALID),
    ("bytes behind the reply", "socks5", speaks(b"\x05\x00", SOCKS_OK + b"x"), INVALID),
    ("SOCKS5 hangs up", "socks5", hangs_up, INVALID),
    ("SOCKS5 resets", "socks5", resets, INVALID),
    ("SOCKS5 is silent", "socks5", is_silent, ErrCode.CONNECT_TIMEOUT),
    ("half a reply", "socks5", speaks(b"\x05\x00", b"\x05\x00"), ErrCode.CONNECT_TIMEOUT),
    ("TLS that is none", "https", speaks(b"HTTP/1.1 400 No\r\n\r\n"), ErrCode.PROXY_UNREACHABLE),
    ("TLS that is silent", "https", is_silent, ErrCode.CONNECT_TIMEOUT),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "script"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_proxies_may_do(run: Run, scheme: str, script: Script) -> None:
    async def scenario() -> None:
        async with RawServer(script, early=True) as proxy, a_dialler() as dialler:
            way = Way(proxy=ProxyRequest(url=f"{scheme}://127.0.0.1:{proxy.port}"))
            dialled = await dialler.dial(ConnectionOptions(url="ws://127.0.0.1:9/"), way)
            await holds_a_conversation(dialled, 3)

    run(scenario())


@pytest.mark.parametrize(("scheme", "script", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@pytest.mark.parametrize("target", ["ws", "wss"])
def test_what_proxies_must_not_do(run: Run, scheme: str, script: Script, code: ErrCode, target: str) -> None:
    async def scenario() -> None:
        async with RawServer(script, early=True) as proxy, a_dialler() as dialler:
            asked = ProxyRequest(url=f"{scheme}://127.0.0.1:{proxy.port}", username="user", password=PASSWORD)
            begun = time.monotonic()
            failed = await failure(dialler, f"{target}://127.0.0.1:9/?k=query", Way(proxy=asked), connect_timeout_s=0.7)
            assert time.monotonic() - begun < 3
            assert failed.errors[0].err_code == code, failed.errors
            assert failed.timed_out == (code == ErrCode.CONNECT_TIMEOUT)
            place = f"127.0.0.1:9 through proxy {scheme}://127.0.0.1:{proxy.port}"
            assert failed.errors[0].message.startswith(place)
            for secret in (PASSWORD, "query"):
                assert secret not in str(failed.errors)
            await wait_for(lambda: all(each.writer.transport.is_closing() for each in proxy.connections))

    run(scenario())


async def test_a_proxy_that_cannot_be_reached_is_121(files: Files) -> None:
    async with RawServer(echo, tls=server_context(files)) as secure, a_dialler() as dialler:
        for url, tls in (
            (f"http://127.0.0.1:{free_port()}", None),
            ("socks5://no-such-name.invalid:1080", None),
            (f"http://[::1]:{free_port('::1')}", None),
            (f"https://127.0.0.1:{secure.port}", None),
            (f"https://127.0.0.2:{secure.port}", TlsRequest(ca_file=files.ca)),
            (f"https://127.0.0.1:{secure.port}", TlsRequest(ca_file="/nowhere/ca.pem")),
        ):
            way = Way(proxy=ProxyRequest(url=url, tls=tls))
            failed = await failure(dialler, "ws://127.0.0.1:9/", way)
            assert failed.errors[0].err_code == ErrCode.PROXY_UNREACHABLE, url
            assert failed.errors[0].message.startswith(f"127.0.0.1:9 through proxy {url}: ")


async def test_a_proxy_is_not_left_unverified_unless_the_configuration_lets_it_be() -> None:
    async with a_dialler() as dialler:
        way = Way(proxy=ProxyRequest(url="https://127.0.0.1:9", tls=TlsRequest(verify=False)))
        assert (await failure(dialler, "ws://127.0.0.1:9/", way)).policy


def test_a_dial_through_a_proxy_may_be_cancelled_after_any_pass_of_the_loop(run: Run, files: Files) -> None:
    async def scenario() -> None:
        connect, socks = answers(OK, then=is_the_server), speaks(b"\x05\x00", SOCKS_OK, then=is_the_server)
        context = server_context(files)
        async with (
            RawServer(connect, early=True) as plain, RawServer(socks, early=True) as socks5,
            RawServer(connect, early=True, tls=context) as secure, RawServer(forwards, early=True) as http,
            RawServer(forwards, early=True, tls=context) as https, RawServer(echo, tls=context) as server,
        ):  # fmt: skip
            tls = TlsRequest(ca_file=files.ca)
            async with a_dialler() as dialler:
                for url, proxy in (
                    ("ws://127.0.0.1:9/", ProxyRequest(url=f"http://127.0.0.1:{plain.port}")),
                    ("ws://127.0.0.1:9/", ProxyRequest(url=f"socks5://127.0.0.1:{socks5.port}")),
                    ("ws://127.0.0.1:9/", ProxyRequest(url=f"https://127.0.0.1:{secure.port}", tls=tls)),
                    (server.url, ProxyRequest(url=f"http://127.0.0.1:{http.port}")),
                    (server.url, ProxyRequest(url=f"https://127.0.0.1:{https.port}", tls=tls)),
                ):
                    options = ConnectionOptions(url=url, tls=tls)
                    (await dialler.dial(options, Way(proxy=proxy))).transport.abort()
                    if (proxy.url, url) == (
                        f"https://127.0.0.1:{https.port}",
                        server.url,
                    ) and not bears_failing_tls_in_tls():
                        continue
                    for passes in range(0, 120, 2):
                        task = asyncio.create_task(dialler.dial(options, Way(proxy=proxy)))
                        for _ in range(passes):
                            await asyncio.sleep(0)
                        task.cancel()
                        try:
                            (await task).transport.abort()
                        except asyncio.CancelledError:
                            pass
                servers = (plain, socks5, secure, http, https, server)
                await wait_for(
                    lambda: all(each.writer.transport.is_closing() for one in servers for each in one.connections)
                )

    run(scenario())


async def forwards(connection: RawConnection) -> None:
    """A proxy that connects, for what TLS is spoken with."""
    await connection.read_request()
    _, authority, _ = connection.request_line.split(" ")
    host, _, port = authority.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    connection.writer.write(OK)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            sink.close()

    await asyncio.gather(pump(connection.reader, writer), pump(reader, connection.writer))
