"""The handshake: what a dial says, and what it makes of answers."""

from __future__ import annotations

import asyncio
import gzip
import socket

import pytest

from mooring.dial_options import TlsRequest
from mooring.errors import ErrCode
from mooring.version import __version__
from mooring.wire import dial as dial_module
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.servers import RawConnection, RawServer, frame
from tests.workers.wire.conftest import Run
from tests.workers.wire.peers import Script, accepts, dial, failure, stood_still


def says(head: str, body: bytes = b"") -> Script:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(head.replace("\n", "\r\n").encode("latin-1") + body)
        await connection.writer.drain()
        await connection.reader.read()

    return script


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
        way = {"addresses": ["127.0.0.1"]} if "feed" in host else {}
        (await dial(f"ws://{host}:{server.port}/", **way)).transport.abort()
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
        assert (await failure(dial(server.url, headers=[("X", "a\r\nY: b")]))).errors[0].err_code == ErrCode.UNREACHABLE
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
        way, tls = {"addresses": ["127.0.0.1"]}, TlsRequest(ca_file=files.ca)
        for host in ("feed.test", "feed.test."):
            (await dial(f"wss://{host}:{server.port}/", **way, tls=tls)).transport.abort()
        failed = await failure(dial(f"wss://other.test:{server.port}/", **way, tls=tls))
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
            assert (await failure(dial(server.url))).errors[0].err_code == ErrCode.HANDSHAKE_INVALID


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
        assert (await failure(dial(other.url))).errors[0].err_code == ErrCode.HANDSHAKE_INVALID


async def test_a_server_that_speaks_another_protocol_is_found_out_at_once() -> None:
    async with RawServer(says("SSH-2.0-OpenSSH_9.2\n"), early=True) as server:
        failed = await failure(dial(server.url, connect_timeout_s=60))
        assert failed.errors[0].err_code == ErrCode.HANDSHAKE_INVALID, "nothing of it was waited for"


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
    ("Content-Type: text/plain\nContent-Encoding: gzip", gzip.compress(b"no", mtime=0), ""),
    ("Content-Type: text/plain", b"Cannot GET /x?token=s3cr3t%2F%2B%3D&n=1", ": Cannot GET /x?…"),
    ("Content-Type: text/plain", b"bad token s3cr3t/+= or s3cr3t%2F%2B%3D", ": bad token … or …"),
    ("Content-Type: text/plain", b"401 for Bearer abcd1234", ": 401 for …"),
    ("Content-Type: text/plain", b"unknown key abcd1234, session zyx987", ": unknown key …, session …"),
    ("Content-Type: text/plain", b"1 of 21 is n=1", ": … of 21 is n=…"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "text"), BODIES, ids=range(len(BODIES)))
async def test_a_refusal_says_why_and_repeats_nothing_secret(kind: str, body: bytes, text: str) -> None:
    head = f"HTTP/1.1 401 Unauthorized\n{kind}\nContent-Length: {len(body)}\n\n".replace("\n\nC", "\nC")
    async with RawServer(says(head, body)) as server:
        failed = await failure(
            dial(
                f"{server.url}x?token=s3cr3t%2F%2B%3D&n=1",
                headers=[("Authorization", "Bearer abcd1234"), ("Cookie", "a=1; sid=zyx987")],
            )
        )
        assert failed.errors[0].err_code == ErrCode.HANDSHAKE_STATUS
        place = f"127.0.0.1:{server.port}"
        assert failed.errors[0].message == f"{place} answered the handshake with status 401 Unauthorized{text}"
        assert failed.status == 401


async def test_a_secret_that_is_cut_off_is_not_shown_either() -> None:
    secret = "s3cr3t" * 400
    body = b"no such key: " + secret.encode()
    async with RawServer(says(f"HTTP/1.1 403 {secret[:50]}\nContent-Length: {len(body)}\n\n", body)) as server:
        failed = await failure(dial(f"{server.url}?key={secret}"))
        assert "s3cr3t" not in str(failed.errors)


@pytest.mark.parametrize(
    ("head", "pieces", "text"),
    [
        ("Transfer-Encoding: chunked", [b"6\r\ntoken \r\n", b"7\r\nexpired\r\n0\r\n\r\n"], ": token expired"),
        ("Transfer-Encoding: chunked", [b"6\r\ntoken \r\n", b"nonsense\r\n"], ": token"),
        ("Content-Length: 13", [b"token ", b"expired"], ": token expired"),
        ("Connection: close", [b"token ", b"expired"], ": token expired"),
        ("Content-Length: 0", [], ""),
    ],
)
async def test_a_body_that_comes_in_pieces_is_waited_for(
    head: str, pieces: list[bytes], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "BODY_WAIT_S", 3600)  # each of them has an end

    async def script(connection: RawConnection) -> None:
        connection.writer.write(f"HTTP/1.1 503 No\r\nRetry-After: 7\r\n{head}\r\n\r\n".encode())
        for piece in pieces:
            await asyncio.sleep(0.02)
            connection.writer.write(piece)
        if "close" not in head:
            await connection.reader.read()

    async with RawServer(script) as server:
        failed = await failure(dial(server.url, connect_timeout_s=60))
        assert failed.errors[0].message.endswith(f"with status 503 No{text}")
        assert failed.retry_after_s == 7


async def test_a_body_that_does_not_end_is_waited_for_briefly() -> None:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\ntoken ")
        await connection.reader.read()

    async with RawServer(script) as server:
        failed = await failure(dial(server.url, connect_timeout_s=3600))
        assert failed.errors[0].message.endswith("with status 503 No: token")
        assert failed.retry_after_s == 7


async def test_a_refusal_just_before_the_deadline_is_a_refusal_also_if_we_stood_still_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial_module, "BODY_WAIT_S", 3600)  # the deadline ends it
    refused = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        connection.writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\n")
        refused.set()
        await connection.reader.read()

    async with RawServer(script) as server:
        for passes in range(10):
            refused.clear()
            dialling = asyncio.create_task(failure(dial(server.url, connect_timeout_s=60)))
            await refused.wait()
            for _ in range(passes):
                await asyncio.sleep(0)
            stood_still(61)
            failed = await dialling
            assert (failed.status, failed.timed_out) == (403, False), passes


async def test_a_redirect_is_refused_and_its_place_is_not_repeated() -> None:
    answer = says("HTTP/1.1 302 Found\nLocation: http://a.test/?k=s3cr3t\nContent-Length: 6\n\n", b"s3cr3t")
    async with RawServer(answer) as server:
        failed = await failure(dial(server.url))
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
