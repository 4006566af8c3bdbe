"""The table of hostile servers: each row ends in the right error within its deadline, and harms nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from mooring.errors import ErrCode
from tests.conftest import RunningService, wait_for
from tests.servers import RawConnection, RawServer, frame

SERVICE = ((), {"MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": "100"})
DEADLINE_S = 30.0  # before what is waited for at most, where a row says nothing else
LONG = {"connectTimeout": 2 * DEADLINE_S, "closeTimeout": 2 * DEADLINE_S}
ESTABLISHED = 1  # as the first byte of TCP_INFO says it
MAX_RSS_GROWTH = 96 * 2**20
Script = Callable[[RawConnection], Awaitable[None]]


class Handshake(NamedTuple):
    name: str
    script: Script
    error: ErrCode
    status: int = 502
    options: dict[str, object] = {}
    early: bool = False


def answers(head: str, body: bytes = b"", *, endless: bool = False) -> Script:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(head.replace("\n", "\r\n").encode("latin-1") + body)
        while endless:
            connection.writer.write(b"x" * 65536)
            await connection.writer.drain()
        await connection.writer.drain()
        await asyncio.sleep(0.2)

    return script


def switches(*extra: str, **changes: str) -> Script:
    async def script(connection: RawConnection) -> None:
        connection.writer.write(connection.answer_101(*extra, **changes))
        await connection.writer.drain()
        await connection.reader.read(100)

    return script


async def trickles(connection: RawConnection) -> None:
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 100:
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
        await asyncio.sleep(1)


async def black_hole(connection: RawConnection) -> None:
    await asyncio.sleep(3600)


async def resets(connection: RawConnection) -> None:
    connection.reset()


def redirect(target: str, status: int = 302) -> Script:
    return answers(f"HTTP/1.1 {status} Found\nLocation: {target}\nContent-Length: 0\n\n")


STATUS = ErrCode.HANDSHAKE_STATUS
INVALID = ErrCode.HANDSHAKE_INVALID
HANDSHAKES = [
    *(
        Handshake(f"status {status}", answers(f"HTTP/1.1 {status} No\nContent-Length: 2\n\n", b"no"), STATUS)
        for status in (200, 401, 403, 404, 426, 500, 503)
    ),
    Handshake("503 with an endless body", answers("HTTP/1.1 503 No\n\n", endless=True), STATUS),
    Handshake("401 with a chunked endless body", answers("HTTP/1.1 401 No\nTransfer-Encoding: chunked\n\n", b"fffffff\r\n", endless=True), STATUS),
    Handshake("wrong accept", switches(accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="), INVALID),
    Handshake("missing accept", switches(accept=""), INVALID),
    Handshake("wrong upgrade", switches(upgrade="h2c"), INVALID),
    Handshake("no connection header", answers("HTTP/1.1 101 S\nUpgrade: websocket\n\n"), INVALID),
    Handshake("unoffered subprotocol", switches("Sec-WebSocket-Protocol: mqtt"), INVALID),
    Handshake("two subprotocols", switches("Sec-WebSocket-Protocol: a, b"), INVALID, options={"protocols": ["a", "b"]}),
    Handshake("unoffered extension", switches("Sec-WebSocket-Extensions: permessage-deflate"), INVALID),
    Handshake("unknown extension", switches("Sec-WebSocket-Extensions: x-other"), INVALID, options={"compress": True}),
    Handshake("malformed extension", switches("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"), INVALID, options={"compress": True}),
    Handshake("extension twice", switches("Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate"), INVALID, options={"compress": True}),
    Handshake("a header of 70 KB", switches("X-Big: " + "x" * 70_000), INVALID),
    Handshake("500 headers", switches(*(f"X-{n}: y" for n in range(500))), INVALID),
    Handshake("one byte a second", trickles, ErrCode.CONNECT_TIMEOUT, 504, {"connectTimeout": 0.7}),
    Handshake("garbage", answers("\x16\x03\x01\x02\x00\x01garbage\n\n"), INVALID),
    Handshake("another protocol", answers("SSH-2.0-OpenSSH_9.2\n"), INVALID),
    Handshake("HTTP/0.9", answers("hello\n\n"), INVALID),
    Handshake("redirect", redirect("http://127.0.0.1:1/"), ErrCode.REDIRECT_REFUSED),
    Handshake("redirect to a file", redirect("file:///etc/passwd"), ErrCode.REDIRECT_REFUSED),
    Handshake("redirect to metadata", redirect("http://169.254.169.254/latest", 307), ErrCode.REDIRECT_REFUSED),
    Handshake("redirect without location", answers("HTTP/1.1 301 M\nContent-Length: 0\n\n"), ErrCode.REDIRECT_REFUSED),
    Handshake("black hole", black_hole, ErrCode.CONNECT_TIMEOUT, 504, {"connectTimeout": 0.5}),
    Handshake("closes at once", answers(""), INVALID, early=True),
    Handshake("reset", resets, INVALID),
    Handshake("100 continue for ever", answers("HTTP/1.1 100 Continue\n\n" * 1_000), INVALID),
]  # fmt: skip


@pytest.mark.parametrize("row", HANDSHAKES, ids=lambda row: row.name)
async def test_a_bad_handshake_is_a_failed_dial(shared: RunningService, row: Handshake) -> None:
    async with RawServer(row.script, early=row.early) as server:
        begun = time.monotonic()
        problem = await shared.open(server.url, row.status, **{**LONG, **row.options})
        assert time.monotonic() - begun < DEADLINE_S
        assert ErrCode(problem["errors"][0]["errCode"]) is row.error, problem
        assert problem["detail"]
        events = await shared.events(problem["connection"], until="onTerminate")
        assert [event["kind"] for event in events] == ["onError", "onTerminate"]
        assert (events[1]["event"]["code"], events[1]["event"]["wasClean"]) == (1006, False)
        assert len(server.connections) == 1, "one `new` is one dial"


async def test_tls_garbage_fails_the_dial(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.reader.read(65536)
        await answers("\x16\x03\x01\x02\x00garbage\n\n")(connection)

    async with RawServer(script, early=True) as server:
        problem = await shared.open(server.url.replace("ws://", "wss://"), 502)
        assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.TLS_FAILED


async def test_frames_in_the_packet_of_the_101_are_not_lost(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"one") + frame(1, b"two") + frame(1, b"three")[:3])
        await asyncio.sleep(0.1)
        connection.writer.write(frame(1, b"three")[3:])
        await connection.read_close()

    async with RawServer(script) as server:
        record = await shared.open(server.url)
        events = await shared.events(record["id"], count=4)
        assert [event["event"].get("data") for event in events] == [None, "one", "two", "three"]


class Frames(NamedTuple):
    name: str
    data: bytes | Script
    error: ErrCode | None
    code: int
    clean: bool = True
    close_sent: int | None = None  # the code that we put on the wire
    options: dict[str, object] = {}
    messages: int = 0


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(8, code.to_bytes(2, "big") + reason)


async def fin(connection: RawConnection) -> None:
    connection.writer.close()


async def reset(connection: RawConnection) -> None:
    await asyncio.sleep(0.05)
    connection.reset()


async def silence(connection: RawConnection) -> None:
    await asyncio.sleep(3600)


async def empty_fragments(connection: RawConnection) -> None:
    connection.writer.write(frame(1, b"", fin=False))
    for _ in range(1_000):
        connection.writer.write(frame(0, b"", fin=False) * 1_000)
        await connection.writer.drain()
    connection.writer.write(frame(0, b"x") + close(1000))
    await connection.read_close()


async def byte_by_byte(connection: RawConnection) -> None:
    for byte in frame(1, "grün".encode() * 30) + close(1000):
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
        await asyncio.sleep(0)
    await connection.read_close()


async def ping_flood_and_never_reads(connection: RawConnection) -> None:
    ping = frame(9, b"x" * 125)
    connection.writer.transport.pause_reading()
    for _ in range(300):
        connection.writer.write(ping * 200)
        await asyncio.wait_for(connection.writer.drain(), 60)
    connection.writer.write(close(1000))
    sock = connection.writer.get_extra_info("socket")
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED:  # until the client has left
        await asyncio.sleep(0.01)
    connection.writer.transport.abort()


async def pong_flood(connection: RawConnection) -> None:
    for _ in range(100):
        connection.writer.write(frame(10, b"unasked") * 1_000)
        await connection.writer.drain()
    connection.writer.write(close(1000))
    await connection.read_close()


def deflate_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    data = b"".join([packer.compress(b"\0" * 2**20) for _ in range(200)]) + packer.flush(zlib.Z_SYNC_FLUSH)
    return frame(2, data[:-4], rsv=4)


PROTOCOL, DATA, BIG, LOST = (
    ErrCode.PROTOCOL_ERROR,
    ErrCode.INVALID_DATA,
    ErrCode.MESSAGE_TOO_BIG,
    ErrCode.CONNECTION_LOST,
)
FRAMES = [
    Frames("masked", frame(1, b"hi", mask=b"abcd"), PROTOCOL, 1002, close_sent=1002),
    *(Frames(f"rsv {bits}", frame(1, b"hi", rsv=bits), PROTOCOL, 1002, close_sent=1002) for bits in (1, 2, 4, 7)),
    *(Frames(f"opcode {code}", frame(code, b"hi"), PROTOCOL, 1002, close_sent=1002) for code in (3, 7, 11, 15)),
    Frames("fragmented ping", frame(9, b"hi", fin=False), PROTOCOL, 1002, close_sent=1002),
    Frames("fragmented close, then silence", frame(8, b"\x03\xe8", fin=False), PROTOCOL, 1002, close_sent=1002, clean=False, options={"closeTimeout": 0.5}),
    Frames("ping of 126 bytes", frame(9, b"x" * 126), PROTOCOL, 1002, close_sent=1002),
    Frames("continuation first", frame(0, b"hi"), PROTOCOL, 1002, close_sent=1002),
    Frames("text inside a fragmented message", frame(1, b"a", fin=False) + frame(1, b"b"), PROTOCOL, 1002, close_sent=1002),
    Frames("length 2^63", frame(2, length=1 << 63), PROTOCOL, 1002, close_sent=1002, options={"closeTimeout": 0.5}, clean=False),
    Frames("length 2^62", frame(2, length=1 << 62), BIG, 1009, close_sent=1009, options={"closeTimeout": 0.5}, clean=False),
    Frames("invalid UTF-8", frame(1, b"\xff"), DATA, 1007, close_sent=1007),
    Frames("invalid UTF-8 over a fragment border", frame(1, b"\xc3", fin=False) + frame(0, b"("), DATA, 1007, close_sent=1007),
    Frames("valid UTF-8 over a fragment border", frame(1, b"\xc3", fin=False) + frame(0, b"\xbc") + close(1000), None, 1000, messages=1),
    Frames("larger than maxMessageSize", frame(1, b"x" * 2_000), BIG, 1009, close_sent=1009, options={"maxMessageSize": 1_000}),
    Frames("a million empty fragments", empty_fragments, None, 1000, messages=1),
    Frames("one byte per packet", byte_by_byte, None, 1000, messages=1),
    Frames("ping flood while never reading", ping_flood_and_never_reads, None, 1000, clean=True),
    Frames("pong flood", pong_flood, None, 1000),
    Frames("deflate bomb of 200 MB", deflate_bomb(), BIG, 1009, close_sent=1009, options={"compress": True}),
    *(Frames(f"close {code}", close(code), PROTOCOL, 1002, close_sent=1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)),
    Frames("close of one byte", frame(8, b"\x03"), PROTOCOL, 1002, close_sent=1002),
    Frames("close with bad UTF-8", close(1000, b"\xff"), DATA, 1007, close_sent=1007),
    Frames("close without a code", frame(8), None, 1005),
    Frames("data after close", close(1000) + frame(1, b"late"), None, 1000),
    Frames("two closes", close(4001) + close(4002), None, 4001),
    Frames("FIN without close", fin, LOST, 1006, clean=False),
    Frames("RST without close", reset, LOST, 1006, clean=False),
    Frames("half a frame, then FIN", frame(1, b"hello")[:4], LOST, 1006, clean=False),
    Frames("silence", silence, ErrCode.PING_TIMEOUT, 1006, clean=False, options={"pingInterval": 0.3, "pingTimeout": 0.3}),
]  # fmt: skip


@pytest.mark.parametrize("row", FRAMES, ids=lambda row: row.name)
async def test_a_hostile_stream_ends_as_it_must(shared: RunningService, row: Frames) -> None:
    sent: list[int | None] = []

    async def script(connection: RawConnection) -> None:
        await connection.accept(
            *(["Sec-WebSocket-Extensions: permessage-deflate"] if "compress" in row.options else [])
        )
        if callable(row.data):
            await row.data(connection)
            return
        connection.writer.write(row.data)
        if row.name == "half a frame, then FIN":
            await connection.writer.drain()
            return
        code, _ = await asyncio.wait_for(connection.read_close(), 60)
        sent.append(code)
        if row.error is not None and row.clean:
            connection.writer.write(close(code or 1000))

    async with RawServer(script) as server:
        begun = time.monotonic()
        record = await shared.open(server.url, **{**LONG, **row.options})
        events = await shared.events(record["id"], until="onTerminate")
        took = time.monotonic() - begun
        kinds = [event["kind"] for event in events]
        errors = [event["event"]["errors"][0] for event in events if event["kind"] == "onError"]
        assert [ErrCode(error["errCode"]) for error in errors] == ([row.error] if row.error else []), errors
        end = events[-1]["event"]
        expected = row.code if row.clean else 1006
        assert (end["code"], end["wasClean"]) == (expected, row.clean), end
        assert kinds.count("onMessage") == row.messages
        assert kinds[-1] == "onTerminate"
        if row.close_sent is not None and sent:
            assert sent[0] == row.close_sent
        if not callable(row.data):
            assert took < DEADLINE_S
        assert server.errors == []


async def test_a_peer_that_never_answers_our_close_is_left_after_close_timeout(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await asyncio.sleep(3600)

    async with RawServer(script) as server:
        record = await shared.open(server.url, closeTimeout=0.4)
        begun = time.monotonic()
        final = await shared.call("DELETE", f"/v1/connections/{record['id']}")
        assert 0.3 < time.monotonic() - begun < 4.5, "less than the 5 s of who says no closeTimeout"
        assert (final["terminate"]["code"], final["terminate"]["wasClean"]) == (1006, False)


async def test_a_close_frame_that_waits_behind_what_the_peer_does_not_read_is_sent_when_the_peer_closes(
    shared: RunningService,
) -> None:
    closing = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        connection.writer.transport.pause_reading()
        await closing.wait()
        connection.writer.write(close(4001))
        connection.writer.transport.resume_reading()
        await connection.read_close()

    async with RawServer(script) as server:
        record = await shared.open(server.url, sendTimeout=0.3, closeTimeout=60)
        big = b"x" * (4 * 2**20)
        sends = [asyncio.create_task(shared.send(record["id"], big, status=None)) for _ in range(3)]
        await asyncio.sleep(0.2)
        deleting = asyncio.create_task(shared.call("DELETE", f"/v1/connections/{record['id']}"))

        async def is_closing() -> bool:
            return bool((await shared.record(record["id"]))["status"] == "Closing")

        await wait_for(is_closing)
        closing.set()
        final = await deleting
        await asyncio.gather(*sends)
        assert final["terminate"] == {"code": 4001, "reason": "", "wasClean": True}
        (peer,) = server.connections
        await wait_for(lambda: peer.frames and peer.frames[-1][0] == 8)
        assert server.errors == []


async def test_a_peer_that_talks_for_ever_after_our_close_is_left_too(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        while True:
            connection.writer.write(frame(1, b"x" * 1_000))
            await connection.writer.drain()
            await asyncio.sleep(0.001)

    async with RawServer(script) as server:
        record = await shared.open(server.url, closeTimeout=0.5)
        begun = time.monotonic()
        final = await shared.call("DELETE", f"/v1/connections/{record['id']}")
        assert time.monotonic() - begun < 4.5, "less than the 5 s of who says no closeTimeout"
        assert final["terminate"]["code"] == 1006


async def test_after_all_of_it_the_worker_is_unharmed(shared: RunningService) -> None:
    await shared.call("PUT", "/v1/workers/main", None)  # where nothing was before

    async def nobody_left() -> dict[str, Any] | None:
        record: dict[str, Any] = await shared.get("/v1/workers/main")
        return record if record["connections"] == 0 else None

    worker = await wait_for(nobody_left)
    assert worker["restarts"] == 0
    assert worker["rss"] < 40 * 2**20 + MAX_RSS_GROWTH
    log = shared.worker_log()
    assert "Traceback" not in log, log[-3000:]
    assert "Traceback" not in shared.log()
    soft, _ = resource.prlimit(worker["pid"], resource.RLIMIT_NOFILE)
    await wait_for(lambda: len(os.listdir(f"/proc/{worker['pid']}/fd")) < min(60, soft))
