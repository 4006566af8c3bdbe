"""The cheap ends of the benchmark, each a process of its own: servers, subscriber, load. Results are JSON on stdout.

python -m tests.bench.tools server              a WebSocket server: /flood?count=&size=, /rate?rate=&s=, /echo
python -m tests.bench.tools subscribe URL N     reads a stream until N messages have come
python -m tests.bench.tools post URL N C        POSTs N times, C at once
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import sys
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvloop

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CHUNK_BYTES = 50_000  # one write of the flood, or one frame if that is longer
STAMP = re.compile(rb"t=(\d{19})")  # the monotonic time at which a message was sent


def text_frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([0x81, size])
    elif size < 65_536:
        head = bytes([0x81, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x81, 127]) + size.to_bytes(8, "big")
    return head + payload


class FloodServer(asyncio.Protocol):
    """Answers the handshake; after the client's first message it does what the path says."""

    def __init__(self) -> None:
        self.buffer = b""
        self.open = False
        self.begun = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.buffer = rest
            lines = head.split(b"\r\n")
            key = next(line.split(b":")[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-key"))
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.open = True
            parts = urlsplit(lines[0].split(b" ")[1].decode())
            self.path = parts.path
            self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        while True:
            frame = self._take_frame()
            if frame is None:
                return
            opcode, payload = frame
            if opcode == 8:
                self.transport.write(bytes([0x88, len(payload)]) + payload)
                self.transport.close()
            elif opcode == 9:
                self.transport.write(bytes([0x8A, len(payload)]) + payload)
            elif opcode in (1, 2):
                if self.path == "/echo":
                    self.transport.write(text_frame(payload))
                elif not self.begun and self.path != "/sink":
                    self.begun = True
                    self.task = asyncio.create_task(self.flood() if self.path == "/flood" else self.steady())

    def _take_frame(self) -> tuple[int, bytes] | None:
        data = self.buffer
        if len(data) < 6:
            return None
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            if len(data) < 10:
                return None
            size, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + 4 + size:
            return None
        mask = data[at : at + 4]
        body = data[at + 4 : at + 4 + size]
        self.buffer = data[at + 4 + size :]
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        return data[0] & 0x0F, (int.from_bytes(body, "big") ^ key).to_bytes(size, "big")

    async def flood(self) -> None:
        count, size = int(self.query["count"]), int(self.query.get("size", "100"))
        frame = text_frame(b"x" * size)
        frames = max(1, CHUNK_BYTES // size)
        chunk = frame * frames
        for _ in range(count // frames):
            await self.writable.wait()
            self.transport.write(chunk)
            await asyncio.sleep(0)
        self.transport.write(frame * (count % frames))

    async def steady(self) -> None:
        rate, seconds = float(self.query["rate"]), float(self.query["s"])
        size = int(self.query.get("size", "100"))

        def frame() -> bytes:
            return text_frame((b"t=%019d " % time.monotonic_ns()).ljust(size, b"x"))

        begin, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - begin) < seconds:
            due = int(elapsed * rate)
            if due > sent:
                self.transport.write(frame() * (due - sent))
                sent = due
            await asyncio.sleep(0.002)
        self.transport.write(frame() * (int(seconds * rate) - sent))


async def serve(host: str = "127.0.0.1") -> None:
    server = await asyncio.get_running_loop().create_server(FloodServer, host, 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Event().wait()


def subscribe(url: str, count: int, readers: int, mark: bytes) -> None:
    """Read `readers` streams of `url`, each until `count` marks have come; print when the first and the last came, and how
    long stamped messages were on their way to the last reader.
    """
    import selectors

    parts = urlsplit(url)
    selector = selectors.DefaultSelector()
    token = os.environ.get("BENCH_TOKEN", "")
    seen = [0] * readers
    carry = [b""] * readers
    begun = [0.0] * readers
    late: list[int] = []
    for index in range(readers):
        sock = socket.create_connection((parts.hostname, parts.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        assert b" 200 " in head.split(b"\r\n")[0], head
        rest = head.split(b"\r\n\r\n", 1)[1]
        seen[index] = rest.count(mark)
        carry[index] = rest[-len(mark) + 1 :]
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, index)
    print(json.dumps({"ready": True}), flush=True)
    begin = 0.0
    open_streams = readers
    while open_streams:
        for key, _ in selector.select(30) or sys.exit("nothing came for 30 s: " + str(seen)):
            index, sock = key.data, key.fileobj
            data = sock.recv(1 << 20)
            if not begin:
                begin = time.monotonic()
            text = carry[index] + data
            seen[index] += text.count(mark)
            carry[index] = text[-len(mark) + 1 :]
            if readers > 1 and index == readers - 1:  # of a flood nothing is stamped
                now = time.monotonic_ns()
                late += [now - int(found[1]) for found in STAMP.finditer(data)]
            if seen[index] >= count or not data:
                begun[index] = time.monotonic()
                selector.unregister(sock)
                open_streams -= 1
    end = max(begun)
    late.sort()
    p = (
        {name: late[int(len(late) * share)] / 1e6 for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))}
        if late
        else {}
    )
    print(json.dumps({"begin": begin, "end": end, "seen": seen, **p}), flush=True)


class Poster(asyncio.Protocol):
    """Sends the same request again as soon as its answer has come."""

    def __init__(self, request: bytes, left: list[int], times: list[float], done: asyncio.Event) -> None:
        self.request = request
        self.left = left
        self.times = times
        self.done = done

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next()

    def next(self) -> None:
        if self.left[0] <= 0:
            self.transport.close()
            return
        self.left[0] -= 1
        self.begun = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 20"), data
        self.times.append(time.perf_counter() - self.begun)
        self.next()

    def connection_lost(self, exc: Exception | None) -> None:
        self.left[1] -= 1
        if not self.left[1]:
            self.done.set()


async def post(url: str, count: int, concurrency: int, body: bytes, kind: str) -> None:
    parts = urlsplit(url)
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: Bearer {os.environ.get('BENCH_TOKEN', '')}\r\n\r\n"
    ).encode() + body
    left, times, done = [count, concurrency], [], asyncio.Event()
    begin = time.monotonic()
    loop = asyncio.get_running_loop()
    for _ in range(concurrency):
        await loop.create_connection(lambda: Poster(request, left, times, done), parts.hostname, parts.port)
    await done.wait()
    took = time.monotonic() - begin
    times.sort()
    print(
        json.dumps({"rate": count / took, "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}),
        flush=True,
    )


async def lines(url: str, count: int) -> None:
    """One POST with `count` lines."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/x-ndjson\r\n"
            f"Transfer-Encoding: chunked\r\nAuthorization: Bearer {os.environ.get('BENCH_TOKEN', '')}\r\n\r\n"
        ).encode()
    )
    line = json.dumps({"data": "x" * 88}).encode() + b"\n"
    chunk = line * 500
    framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
    begin = time.monotonic()
    for _ in range(count // 500):
        writer.write(framed)
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    answer = await reader.readuntil(b"}")
    took = time.monotonic() - begin
    assert b'"sent":%d' % count in answer, answer
    print(json.dumps({"rate": count / took}), flush=True)


async def latency(base: str, connection: int, count: int) -> None:
    """POST a message, wait for its echo on the event stream; one at a time."""
    parts = urlsplit(base)
    token = os.environ.get("BENCH_TOKEN", "")
    stream, out = await asyncio.open_connection(parts.hostname, parts.port)
    out.write(
        f"GET /v1/connections/{connection}/events?after=now HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Accept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    await stream.readuntil(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    request = (
        f"POST /v1/connections/{connection}/messages HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: 100\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode() + b"x" * 100
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        writer.write(request)
        await stream.readuntil(b"event: onMessage")
        times.append(time.perf_counter() - begin)
        await reader.readuntil(b"}")
    times.sort()
    print(json.dumps({"p50": times[count // 2], "p99": times[count * 99 // 100]}), flush=True)


async def bare_latency(post_url: str, echo_url: str, count: int) -> None:
    """p50 of a bare POST plus p50 of a bare echo, with aiohttp's client."""
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def one_post() -> None:
            async with session.post(post_url, data=b"x" * 100) as response:
                await response.read()

        async with session.ws_connect(echo_url) as socket_:

            async def one_echo() -> None:
                await socket_.send_str("x" * 100)
                await socket_.receive()

            found = []
            for work in (one_post, one_echo):
                times = []
                for _ in range(count):
                    begin = time.perf_counter()
                    await work()
                    times.append(time.perf_counter() - begin)
                times.sort()
                found.append(times[count // 2])
    print(json.dumps({"post_p50": found[0], "echo_p50": found[1]}), flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["server", *host]:
            uvloop.run(serve(*host))
        case ["subscribe", url, count, readers]:
            subscribe(url, int(count), int(readers), b"event: onMessage")
        case ["post", url, count, concurrency, body, kind]:
            uvloop.run(post(url, int(count), int(concurrency), body.encode(), kind))
        case ["lines", url, count]:
            uvloop.run(lines(url, int(count)))
        case ["latency", base, connection, count]:
            uvloop.run(latency(base, int(connection), int(count)))
        case ["bare-latency", post_url, echo_url, count]:
            uvloop.run(bare_latency(post_url, echo_url, int(count)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
