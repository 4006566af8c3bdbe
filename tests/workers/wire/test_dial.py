"""The dial: where it goes, what it says, what it makes of answers, and that nothing is left of one that failed."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions, TlsRequest
from mooring.proxies import DialSettings
from mooring.version import __version__
from mooring.wire.dial import DialFailed, Dialled, Dialler
from mooring.wire.egress import EgressPolicy
from mooring.wire.route import Way
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.servers import EchoServer, RawConnection, RawServer, frame
from tests.workers.wire.conftest import Run


class Row(NamedTuple):
    host: str
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


@asynccontextmanager
async def a_dialler(policy: EgressPolicy | None = None, **more: Any) -> AsyncIterator[Dialler]:
    dialler = Dialler(policy or EgressPolicy(), **more)
    try:
        yield dialler
    finally:
        await dialler.close()


async def dial(url: str, way: Way | None = None, *, settings: DialSettings | None = None, **options: Any) -> Dialled:
    async with a_dialler(settings=settings) as dialler:
        return await dialler.dial(ConnectionOptions(url=url, **options), way)


async def failure(url: str, way: Way | None = None, **more: Any) -> DialFailed:
    with pytest.raises(DialFailed) as failed:
        (await dial(url, way, **more)).transport.abort()
    return failed.value


def says(head: str, body: bytes = b"") -> Callable[[RawConnection], Awaitable[None]]:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(head.replace("\n", "\r\n").encode("latin-1") + body)
        await connection.writer.drain()
        await connection.reader.read()

    return script


async def accepts(connection: RawConnection) -> None:
    await connection.accept()
    await connection.reader.read()


# Where it goes.

REFUSED = [
    Row("127.0.0.1", deny=("127.0.0.0/8",)),
    Row("127.1", deny=("127.0.0.0/8",)),
    Row("0x7f.1", deny=("127.0.0.0/8",)),
    Row("2130706433", deny=("127.0.0.0/8",)),
    Row("[::ffff:127.0.0.1]", deny=("127.0.0.0/8",)),
    Row("localhost", deny=("127.0.0.0/8", "::1")),
    Row("localhost", deny=("localhost",)),
    Row("LOCALHOST", deny=("localhost",)),
    Row("ｌｏｃａｌｈｏｓｔ", deny=("localhost",)),
    Row("ⓛocalhost", deny=("localhost",)),
    Row("localhost", allow=("example.com",)),
    Row("ｌocalhost", allow=("example.com", "10.0.0.0/8")),
    Row("①②⑦.⓪.⓪.①", deny=("127.0.0.1",)),
    # The table, without any configuration.
    Row("0.0.0.0"),
    Row("[::]"),
    Row("169.254.169.254"),
    Row("0xa9fea9fe"),
    Row("[::ffff:169.254.169.254]"),
    Row("[::169.254.169.254]"),
    Row("[64:ff9b::a9fe:a9fe]"),
    Row("[2002:a9fe:a9fe::1]"),
    Row("[fe80::1%25lo]"),
    Row("[fd00:ec2::254]"),
    Row("100.100.100.200"),
    Row("168.63.129.16"),
    Row("224.0.0.1"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row.host} deny {row.deny} allow {row.allow}")
async def test_every_spelling_of_what_is_denied_is_refused_before_a_packet_leaves(row: Row, echo: EchoServer) -> None:
    async with a_dialler(EgressPolicy(row.allow, row.deny)) as dialler:
        with pytest.raises(DialFailed) as failed:
            await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
    assert failed.value.errors[0].err_code == ErrCode.POLICY_REFUSED, failed.value
    assert failed.value.policy
    assert echo.peers == []


@pytest.mark.parametrize(
    "row",
    [
        Row("localhost", allow=("localhost",)),
        Row("ｌｏｃａｌｈｏｓｔ", allow=("*",)),
        Row("127.0.0.1", allow=("127.0.0.1",)),
    ],
    ids=lambda row: row.host,
)
async def test_what_is_allowed_is_dialled(row: Row, echo: EchoServer) -> None:
    async with a_dialler(EgressPolicy(row.allow, row.deny)) as dialler:
        dialled = await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
        dialled.transport.abort()
    assert len(echo.peers) == 1


@pytest.mark.parametrize(
    "host", ["a\u200b..b", "a..b", "xn--a", "\u0378.example", "a" * 64, "[fe80::1%25nowhere]", "a%25b"]
)
async def test_a_name_that_is_none_is_not_resolved(host: str) -> None:
    failed = await failure(f"ws://{host}/?token=secret")
    assert failed.errors[0].err_code == ErrCode.NAME_NOT_RESOLVED
    assert "secret" not in str(failed.errors)


async def test_of_several_addresses_those_that_are_denied_are_not_dialled() -> None:
    async with RawServer(accepts, host="127.0.0.2") as denied, RawServer(accepts) as server:
        settings = DialSettings(hosts={"Two.test": ["127.0.0.2", "127.0.0.1"]})
        async with a_dialler(EgressPolicy(deny=["127.0.0.2"]), settings=settings) as dialler:
            (await dialler.dial(ConnectionOptions(url=f"ws://two.test.:{server.port}/"))).transport.abort()
            with pytest.raises(DialFailed) as failed:
                await dialler.dial(ConnectionOptions(url=f"ws://two.test:{denied.port}/"))
            assert failed.value.errors[0].err_code == ErrCode.REFUSED, "of the address that may be dialled"
    assert denied.connections == []


async def test_addresses_stand_for_the_name_and_are_judged_by_the_policy() -> None:
    async with RawServer(accepts) as server:
        url = f"ws://feed.test:{server.port}/"
        (await dial(url, Way(addresses=["127.0.0.1"]))).transport.abort()
        assert server.connections[0].headers["host"] == f"feed.test:{server.port}"
        failed = await failure(url, Way(addresses=["169.254.169.254"]))
        assert failed.policy


async def test_the_first_address_that_answers_is_taken() -> None:
    async with RawServer(accepts) as server:
        begun = time.monotonic()
        dialled = await dial(f"ws://feed.test:{server.port}/", Way(addresses=["::1", "127.0.0.3", "127.0.0.1"]))
        dialled.transport.abort()
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize(("family", "host"), [("ipv4", "127.0.0.1"), ("ipv6", "::1")])
async def test_a_family_is_the_only_one_that_is_dialled(family: Any, host: str) -> None:
    settings = DialSettings(hosts={"both.test": ["127.0.0.1", "::1"]})
    async with RawServer(accepts, host=host) as server:
        (await dial(f"ws://both.test:{server.port}/", Way(family=family), settings=settings)).transport.abort()
        other = "127.0.0.1" if family == "ipv6" else "[::1]"
        failed = await failure(f"ws://{other}:{server.port}/", Way(family=family))
        assert failed.errors[0].err_code == ErrCode.UNREACHABLE
        assert f"no IP{family[2:]}" in failed.errors[0].message


async def test_the_local_address_is_what_the_server_sees() -> None:
    async with RawServer(accepts) as server:
        (await dial(server.url, Way(local_address="127.0.0.2"))).transport.abort()
        assert server.connections[0].writer.get_extra_info("peername")[0] == "127.0.0.2"
        failed = await failure(server.url, Way(local_address="192.0.2.1"))
        assert failed.errors[0].err_code == ErrCode.UNREACHABLE
        assert (await failure(server.url, Way(local_address="::1"))).errors[0].err_code == ErrCode.UNREACHABLE


async def test_nobody_there_is_refused_and_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "[::1]"):
            failed = await failure(f"ws://{host}:{port}/?token=secret")
            assert failed.errors[0].err_code == ErrCode.REFUSED
            assert failed.errors[0].message == f"{host}:{port} refused the connection"
            assert "secret" not in str(failed.errors)


# What it says.


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("/?", "/?"),
        ("?a=1", "/?a=1"),
        ("/x?sig=a%2Fb%2Bc%3D&name=é", "/x?sig=a%2Fb%2Bc%3D&name=%C3%A9"),
        ("/café/%41%2e%2e/b", "/caf%C3%A9/%41%2e%2e/b"),
        ("/%2E%2E/./../a//b", "/%2E%2E/./../a//b"),
        ("/a%2fb?c=%zz&d=100%", "/a%2fb?c=%zz&d=100%"),
        ("/<>\"{}|^`'?<>=;,+&&", "/<>\"{}|^`'?<>=;,+&&"),
        ("/\U0001f600", "/%F0%9F%98%80"),
        ("/a:b@c?d=http://e/f?g", "/a:b@c?d=http://e/f?g"),
    ],
)
async def test_the_text_of_the_url_goes_on_the_wire_as_it_was_passed(text: str, target: str) -> None:
    async with RawServer(accepts) as server:
        (await dial(f"ws://127.0.0.1:{server.port}{text}")).transport.abort()
        assert server.connections[0].request_line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("host", "header"),
    [
        ("localhost", "localhost:PORT"),
        ("feed.test.", "feed.test:PORT"),
        ("[::1]", "[::1]:PORT"),
        ("ｌocalhost", "localhost:PORT"),
    ],
)
async def test_the_host_header_names_the_server(host: str, header: str) -> None:
    async with RawServer(accepts, host="::1" if "[" in host else "127.0.0.1") as server:
        way = Way(addresses=["127.0.0.1"]) if "feed" in host else None
        (await dial(f"ws://{host}:{server.port}/", way)).transport.abort()
        assert server.connections[0].headers["host"] == header.replace("PORT", str(server.port))


async def test_it_names_itself_unless_the_caller_does() -> None:
    async with RawServer(accepts) as server:
        (await dial(server.url)).transport.abort()
        (await dial(server.url, headers=[("user-agent", "mine"), ("X-É", "grün")])).transport.abort()
        first, second = server.connections
        assert first.headers["user-agent"] == f"mooring/{__version__}"
        assert second.headers["user-agent"] == "mine"
        assert set(first.headers) == {
            "host",
            "connection",
            "upgrade",
            "sec-websocket-version",
            "sec-websocket-key",
            "user-agent",
        }


async def test_a_line_break_in_a_header_never_leaves() -> None:
    async with RawServer(accepts) as server:
        assert (await failure(server.url, headers=[("X", "a\r\nY: b")])).errors[0].err_code == ErrCode.UNREACHABLE
        assert all("y" not in connection.headers for connection in server.connections)


def test_over_tls_it_speaks_http_1_and_says_so(run: Run, files: Files) -> None:
    async def scenario() -> None:
        context = server_context(files)
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with RawServer(accepts, tls=context) as server:
            dialled = await dial(server.url, tls=TlsRequest(ca_file=files.ca))
            chosen = server.connections[0].writer.get_extra_info("ssl_object").selected_alpn_protocol()
            dialled.transport.abort()
            assert chosen == "http/1.1"

    run(scenario())


async def test_the_certificate_is_held_against_the_name_of_the_url_not_the_address(files: Files) -> None:
    async with RawServer(accepts, tls=server_context(files)) as server:
        way, tls = Way(addresses=["127.0.0.1"]), TlsRequest(ca_file=files.ca)
        for host in ("feed.test", "feed.test."):
            (await dial(f"wss://{host}:{server.port}/", way, tls=tls)).transport.abort()
        failed = await failure(f"wss://other.test:{server.port}/", way, tls=tls)
        assert failed.errors[0].err_code == ErrCode.TLS_FAILED
        assert "certificate" in failed.errors[0].message


@pytest.mark.parametrize(("interval_s", "expected"), [(0, [1, 60, 15, 4]), (20, [0])])
async def test_without_pings_tcp_looks_after_the_peer(interval_s: float, expected: list[int]) -> None:
    async with RawServer(accepts) as server:
        dialled = await dial(server.url, ping_interval_s=interval_s)
        sock = dialled.transport.get_extra_info("socket")
        found = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ),
        ]
        dialled.transport.abort()
        assert found[: len(expected)] == expected


# What it makes of answers.


@pytest.mark.parametrize(
    ("extra", "opens"),
    [
        (["X-Big: " + "x" * 9_000], True),
        (["X-Big: " + "x" * 60_000], True),
        ([f"X-{n}: {'y' * 250}" for n in range(240)], True),
        (["X-Big: " + "x" * 66_000], False),
        ([f"X-{n}: y" for n in range(300)], False),
    ],
)
async def test_a_head_may_have_64_kib(extra: list[str], opens: bool) -> None:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(connection.answer_101(*extra))
        await connection.reader.read()

    async with RawServer(script) as server:
        if opens:
            (await dial(server.url)).transport.abort()
        else:
            assert (await failure(server.url)).errors[0].err_code == ErrCode.HANDSHAKE_INVALID


async def test_interim_answers_are_passed_over_but_not_without_end() -> None:
    async def twice(connection: RawConnection) -> None:
        connection.writer.write(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + connection.answer_101()
        )
        await connection.reader.read()

    async def without_end(connection: RawConnection) -> None:
        while True:
            connection.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await connection.writer.drain()

    async with RawServer(twice) as server, RawServer(without_end) as other:
        (await dial(server.url)).transport.abort()
        assert (await failure(other.url)).errors[0].err_code == ErrCode.HANDSHAKE_INVALID


async def test_a_server_that_speaks_another_protocol_is_found_out_at_once() -> None:
    async with RawServer(says("SSH-2.0-OpenSSH_9.2\n"), early=True) as server:
        begun = time.monotonic()
        assert (await failure(server.url)).errors[0].err_code == ErrCode.HANDSHAKE_INVALID
        assert time.monotonic() - begun < 2


SECRET = "s3cr3t/+="
BODIES = [
    ("Content-Type: text/plain", b"token expired", ": token expired"),
    ("Content-Type: application/problem+json", b'{"detail": "no such feed"}', ': {"detail": "no such feed"}'),
    ("", b"plain words", ": plain words"),
    ("Content-Type: text/html", b"<html>\r\n<b>No\0\x1b[31m</b>\t\xc2\x85x", ": <html> <b>No [31m</b> x"),
    ("Content-Type: text/plain; charset=ISO-8859-1", b"gr\xfcn", ": grün"),
    ("Content-Type: text/plain", b"\xff\xfe", ": ��"),
    ("Content-Type: text/plain", b"x" * 500, ": " + "x" * 200),
    ("Content-Type: text/plain", "ü".encode() * 500, ": " + "ü" * 200),
    ("Content-Type: image/png", b"\x89PNG", ""),
    ("Content-Type: text/plain\nContent-Encoding: gzip", gzip.compress(b"no"), ""),
    ("Content-Type: text/plain", b"Cannot GET /x?token=s3cr3t%2F%2B%3D&n=1", ": Cannot GET /x?…"),
    ("Content-Type: text/plain", b"bad token s3cr3t/+= or s3cr3t%2F%2B%3D", ": bad token … or …"),
    ("Content-Type: text/plain", b"401 for Bearer abcd1234", ": 401 for …"),
    ("Content-Type: text/plain", b"unknown key abcd1234, session zyx987", ": unknown key …, session …"),
    ("Content-Type: text/plain", b"1 of 21 is n=1", ": … of 21 is n=…"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "text"), BODIES)
async def test_a_refusal_says_why_and_repeats_nothing_secret(kind: str, body: bytes, text: str) -> None:
    head = f"HTTP/1.1 401 Unauthorized\n{kind}\nContent-Length: {len(body)}\n\n".replace("\n\nC", "\nC")
    async with RawServer(says(head, body)) as server:
        failed = await failure(
            f"{server.url}x?token=s3cr3t%2F%2B%3D&n=1",
            headers=[("Authorization", "Bearer abcd1234"), ("Cookie", "a=1; sid=zyx987")],
        )
        assert failed.errors[0].err_code == ErrCode.HANDSHAKE_STATUS
        place = f"127.0.0.1:{server.port}"
        assert failed.errors[0].message == f"{place} answered the handshake with status 401 Unauthorized{text}"
        assert failed.status == 401


async def test_a_secret_that_is_cut_off_is_not_shown_either() -> None:
    secret = "s3cr3t" * 400
    body = b"no such key: " + secret.encode()
    async with RawServer(says(f"HTTP/1.1 403 {secret[:50]}\nContent-Length: {len(body)}\n\n", body)) as server:
        failed = await failure(f"{server.url}?key={secret}")
        assert "s3cr3t" not in str(failed.errors)


@pytest.mark.parametrize(
    ("head", "pieces", "text"),
    [
        ("Transfer-Encoding: chunked", [b"6\r\ntoken \r\n", b"7\r\nexpired\r\n0\r\n\r\n"], ": token expired"),
        ("Transfer-Encoding: chunked", [b"6\r\ntoken \r\n", b"nonsense\r\n"], ": token"),
        ("Content-Length: 13", [b"token ", b"expired"], ": token expired"),
        ("Connection: close", [b"token ", b"expired"], ": token expired"),
        ("Content-Length: 100", [b"token "], ": token"),
        ("Content-Length: 0", [], ""),
    ],
)
async def test_a_body_that_comes_in_pieces_is_waited_for_briefly(head: str, pieces: list[bytes], text: str) -> None:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(f"HTTP/1.1 503 No\r\nRetry-After: 7\r\n{head}\r\n\r\n".encode())
        for piece in pieces:
            await asyncio.sleep(0.02)
            connection.writer.write(piece)
        if "close" not in head:
            await connection.reader.read()

    async with RawServer(script) as server:
        begun = time.monotonic()
        failed = await failure(server.url)
        assert time.monotonic() - begun < 1.5
        assert failed.errors[0].message.endswith(f"with status 503 No{text}")
        assert failed.retry_after_s == 7


async def test_a_refusal_just_before_the_deadline_is_a_refusal() -> None:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\n")
        await connection.reader.read()

    async with RawServer(script) as server:
        failed = await failure(server.url, connect_timeout_s=0.4)
        assert (failed.status, failed.timed_out) == (403, False)


async def test_a_redirect_is_refused_and_its_place_is_not_repeated() -> None:
    answer = says("HTTP/1.1 302 Found\nLocation: http://a.test/?k=s3cr3t\nContent-Length: 6\n\n", b"s3cr3t")
    async with RawServer(answer) as server:
        failed = await failure(server.url)
        assert (failed.errors[0].err_code, failed.status) == (ErrCode.REDIRECT_REFUSED, 302)
        assert "s3cr3t" not in str(failed.errors)


def test_what_comes_behind_the_101_is_kept_and_so_is_the_end(run: Run, files: Files) -> None:
    """Early frames, in the packet of the 101 and after it, and a server that closes at once."""

    class Listener(asyncio.Protocol):
        def __init__(self) -> None:
            self.data = b""
            self.eof = self.lost = False

        def data_received(self, data: bytes) -> None:
            self.data += data

        def eof_received(self) -> None:
            self.eof = True

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost = True

    async def scenario(secure: bool) -> None:
        hold = asyncio.Event()

        async def script(connection: RawConnection) -> None:
            await connection.accept(after=frame(1, b"one"))
            await hold.wait()
            connection.writer.write(frame(1, b"two"))

        async with RawServer(script, tls=server_context(files) if secure else None) as server:
            dialled = await dial(server.url, tls=TlsRequest(ca_file=files.ca) if secure else TlsRequest())
            hold.set()
            await asyncio.sleep(0.05)
            assert not dialled.transport.is_closing()
            listener = Listener()
            dialled.transport.set_protocol(listener)
            dialled.transport.resume_reading()
            await wait_for(lambda: listener.lost)
            assert dialled.tail + listener.data == frame(1, b"one") + frame(1, b"two")

    for secure in (False, True):
        run(scenario(secure))


# Nothing is left of a dial that ends in the middle.


async def is_silent(connection: RawConnection) -> None:
    await connection.reader.read()


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A listener that completes no further handshake of TCP."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        try:
            yield f"ws://127.0.0.1:{port}/"
        finally:
            for filler in fillers:
                filler.close()


def test_a_dial_that_is_not_answered_ends_at_its_deadline_in_every_step(
    run: Run, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = stuck_names(monkeypatch)

    async def scenario() -> None:
        async with RawServer(is_silent) as silent, RawServer(is_silent, early=True) as deaf, full_backlog() as full:
            secure = deaf.url.replace("ws://", "wss://")
            for url in ("ws://hole.test/", full, secure, silent.url):
                begun = time.monotonic()
                failed = await failure(url, connect_timeout_s=0.3)
                assert 0.2 < time.monotonic() - begun < 2, url
                assert (failed.errors[0].err_code, failed.timed_out) == (ErrCode.CONNECT_TIMEOUT, True)

    run(scenario())
    released.set()


def test_a_dial_may_be_cancelled_after_any_pass_of_the_loop(run: Run, files: Files) -> None:
    async def scenario() -> None:
        async with RawServer(accepts) as plain, RawServer(accepts, tls=server_context(files)) as secure:
            settings = DialSettings(hosts={"both.test": ["::1", "127.0.0.1", "127.0.0.3"]})
            async with a_dialler(settings=settings) as dialler:
                for url in (
                    plain.url, secure.url, f"ws://localhost:{plain.port}/", f"ws://both.test:{plain.port}/"
                ):  # fmt: skip
                    opened = 0
                    for passes in range(80):
                        options = ConnectionOptions(url=url, tls=TlsRequest(ca_file=files.ca))
                        task = asyncio.create_task(dialler.dial(options))
                        for _ in range(passes):
                            await asyncio.sleep(0)
                        task.cancel()
                        try:
                            (await task).transport.abort()
                            opened += 1
                        except asyncio.CancelledError:
                            pass
                    assert opened < 80
            await wait_for(
                lambda: all(each.writer.transport.is_closing() for each in plain.connections + secure.connections)
            )

    run(scenario())


# Names.


def stuck_names(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the system's resolver never answer for ``hole…`` until the event is set."""
    released = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).startswith("hole") and not kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            released.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return released


async def test_names_that_nobody_answers_for_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    released = stuck_names(monkeypatch)
    async with RawServer(accepts) as server, a_dialler() as dialler:
        stuck = [
            asyncio.create_task(dialler.dial(ConnectionOptions(url=f"ws://hole{n}.test/", connect_timeout_s=30)))
            for n in range(200)
        ]
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        dialled = await dialler.dial(ConnectionOptions(url=f"ws://localhost:{server.port}/"))
        dialled.transport.abort()
        assert time.monotonic() - begun < 2
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
    released.set()
    await wait_for(lambda: not any(thread.name == "mooring dial" for thread in threading.enumerate()))


async def test_a_machine_without_another_thread_fails_the_dial_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    failed = await failure("ws://nowhere.test/?token=s3cr3t")
    assert failed.errors[0].err_code == ErrCode.UNREACHABLE
    assert failed.errors[1].message == "RuntimeError"
    assert "can't start new thread" in caplog.text
    assert "s3cr3t" not in caplog.text + str(failed.errors)


async def test_a_machine_without_another_descriptor_fails_the_dial_and_not_the_worker() -> None:
    import resource

    async with RawServer(accepts) as server, a_dialler() as dialler:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        next_one = os.dup(0)
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            with pytest.raises(DialFailed) as failed:
                await dialler.dial(ConnectionOptions(url=server.url))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert failed.value.errors[0].err_code == ErrCode.UNREACHABLE
        (await dialler.dial(ConnectionOptions(url=server.url))).transport.abort()


async def test_tls_files_are_read_once_for_dials_that_come_together(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = ssl.create_default_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    async with RawServer(accepts, tls=server_context(files)) as server, a_dialler() as dialler:
        made.clear()
        options = ConnectionOptions(url=server.url, tls=TlsRequest(ca_file=files.ca))
        for dialled in await asyncio.gather(*(dialler.dial(options) for _ in range(20))):
            dialled.transport.abort()
        assert len(made) == 1
