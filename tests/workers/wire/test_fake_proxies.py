"""The dial through proxies that do what they may, and what they must not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from mooring.dial_options import DialSettings, ProxyRequest, ProxySettings, TlsRequest
from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.proxies import PASSWORD, free_port
from tests.servers import RawConnection, RawServer
from tests.workers.wire.conftest import Run
from tests.workers.wire.peers import (
    Script,
    a_dialler,
    bears_failing_tls_in_tls,
    dial_with,
    echo,
    failure,
    holds_a_conversation,
    is_silent,
)


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
            way = dict(proxy=ProxyRequest(url=f"{scheme}://127.0.0.1:{proxy.port}"))
            dialled = await dialler.dial(ConnectionOptions(url="ws://127.0.0.1:9/", **way))
            await holds_a_conversation(dialled, 3)

    run(scenario())


@pytest.mark.parametrize(("scheme", "script", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@pytest.mark.parametrize("target", ["ws", "wss"])
def test_what_proxies_must_not_do(run: Run, scheme: str, script: Script, code: ErrCode, target: str) -> None:
    async def scenario() -> None:
        async with RawServer(script, early=True) as proxy, a_dialler() as dialler:
            asked = ProxyRequest(url=f"{scheme}://127.0.0.1:{proxy.port}", username="user", password=PASSWORD)
            timeout_s = 0.7 if code is ErrCode.CONNECT_TIMEOUT else 60  # the others are found out at once
            failed = await failure(
                dial_with(dialler, f"{target}://127.0.0.1:9/?k=query", proxy=asked, connect_timeout_s=timeout_s)
            )
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
            way = dict(proxy=ProxyRequest(url=url, tls=tls))
            failed = await failure(dial_with(dialler, "ws://127.0.0.1:9/", **way))
            assert failed.errors[0].err_code == ErrCode.PROXY_UNREACHABLE, url
            assert failed.errors[0].message.startswith(f"127.0.0.1:9 through proxy {url}: ")


async def test_a_proxy_is_not_left_unverified_unless_the_configuration_lets_it_be() -> None:
    async with a_dialler() as dialler:
        way = dict(proxy=ProxyRequest(url="https://127.0.0.1:9", tls=TlsRequest(verify=False)))
        assert (await failure(dial_with(dialler, "ws://127.0.0.1:9/", **way))).policy


async def test_a_password_file_that_is_a_pipe_holds_up_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "password"
    os.mkfifo(pipe)
    async with RawServer(answers(OK, then=is_the_server), early=True) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        settings = DialSettings(proxies={"p": ProxySettings(url=url, username="u", password_file=str(pipe))})
        async with a_dialler(settings=settings) as dialler:
            failed = await failure(dial_with(dialler, "ws://127.0.0.1:9/", proxy="p"))
            assert failed.errors[0].err_code == ErrCode.PROXY_AUTH_FAILED
        assert proxy.connections == []


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
                    (await dialler.dial(replace(options, proxy=proxy))).transport.abort()
                    if (proxy.url, url) == (
                        f"https://127.0.0.1:{https.port}",
                        server.url,
                    ) and not bears_failing_tls_in_tls():
                        continue
                    for passes in range(0, 120, 2):
                        task = asyncio.create_task(dialler.dial(replace(options, proxy=proxy)))
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
