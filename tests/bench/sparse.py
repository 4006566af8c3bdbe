"""Scattered events: many connections, one message here and one there, at random times. Each end is a process of its own.

python -m tests.bench.sparse server                a WebSocket server that is told on standard input when to send what
python -m tests.bench.sparse subscribe URL N [S]   reads a stream until N messages have come, or for two (or so many) quiet seconds

Each message carries the monotonic time at which it was sent, so the subscriber knows how long it was on its way.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import selectors
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench.tools import FloodServer, text_frame

SIZE = 100
STAMP = re.compile(rb"t=(\d{19})")
QUIET_S = 2.0


class QuietServer(FloodServer):
    """Takes the handshake and then says only what the driver makes it say."""

    every: list[int] = []

    def data_received(self, data: bytes) -> None:
        was_open = self.open
        super().data_received(data)
        if self.open and not was_open:
            self.every.append(self.transport.get_extra_info("socket").fileno())


def message() -> bytes:
    return text_frame((b"t=%019d " % time.monotonic_ns()).ljust(SIZE, b"x"))


def scatter(sockets: list[int], rate: float, seconds: float, seed: int) -> int:
    """Send to one random connection at a time, as a Poisson process."""
    chance = random.Random(seed)
    due = begin = time.monotonic()
    sent = 0
    while due - begin < seconds:
        due += chance.expovariate(rate)
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        os.write(chance.choice(sockets), message())
        sent += 1
    return sent


def all_at_once(sockets: list[int], rounds: int) -> int:
    """Send to every connection, once a second."""
    for _ in range(rounds):
        for fd in sockets:
            os.write(fd, message())
        time.sleep(1)
    return rounds * len(sockets)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(QuietServer, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)

    def obey() -> None:
        # A thread with a blocking clock: a loop's timers count milliseconds.
        for line in sys.stdin:
            order = json.loads(line)
            if "rounds" in order:
                sent = all_at_once(QuietServer.every, order["rounds"])
            else:
                sent = scatter(QuietServer.every, order["rate"], order["seconds"], order["seed"])
            print(json.dumps({"sent": sent}), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    await asyncio.Event().wait()


def connect(url: str) -> tuple[socket.socket, bytes]:
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname, parts.port))
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    token = os.environ.get("BENCH_TOKEN", "")
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    assert b" 200 " in head.split(b"\r\n")[0], head
    return sock, head.split(b"\r\n\r\n", 1)[1]


def subscribe(url: str, count: int, quiet_s: float = QUIET_S) -> None:
    sock, carry = connect(url)
    print(json.dumps({"ready": True}), flush=True)
    late: list[int] = []
    sock.settimeout(60)
    while len(late) < count:
        try:
            data = sock.recv(1 << 20)
        except TimeoutError:
            break
        if not data:
            break
        now = time.monotonic_ns()
        text = carry + data
        end = 0
        for found in STAMP.finditer(text):
            late.append(now - int(found[1]))
            end = found.end()
        carry = text[max(end, len(text) - 24) :]
        if late:  # a comment of an idle stream is no begin
            sock.settimeout(quiet_s)
    sock.close()
    late.sort()
    p = {name: late[min(len(late) - 1, int(len(late) * share))] / 1e6 for name, share in SHARES.items()} if late else {}
    print(json.dumps({"seen": len(late), **p}), flush=True)


SHARES = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}


def drain(urls: list[str]) -> None:
    """Read many streams for as long as they last; what came is of no interest."""
    selector = selectors.DefaultSelector()
    for url in urls:
        sock, _ = connect(url)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for key, _ in selector.select():
            sock: Any = key.fileobj
            if not sock.recv(1 << 20):
                selector.unregister(sock)


def main() -> None:
    match sys.argv[1:]:
        case ["server"]:
            uvloop.run(serve())
        case ["subscribe", url, count, *quiet_s]:
            subscribe(url, int(count), *map(float, quiet_s))
        case ["drain", *urls]:
            drain(urls)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
