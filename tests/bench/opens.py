"""Opens: how many a second, beside a plain aiohttp client; and what opening and terminating by REST costs, beside the aiohttp gateway.

python -m tests.bench.opens cycles URL N C WS   opens WS and terminates it again by REST, N times, C at once
python -m tests.bench.opens plain WS N C        opens WS N times with aiohttp's client, C at once

CPU is that of the client or the gateway alone: service and workers, or one process; not of the server, nor of who asks by REST.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench.gateways import Aiohttp, Gateway, Mooring, Tool, cpu_s

Figures = dict[str, float]
CONCURRENCY = 32
_ID = re.compile(rb'"id": ?([0-9]+)')
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)


class Cycler(asyncio.Protocol):
    """Opens a connection by REST, terminates it, and begins again."""

    def __init__(self, head: str, body: bytes, left: list[int], done: asyncio.Event) -> None:
        common = f"Host: {head}\r\nAuthorization: Bearer {os.environ.get('BENCH_TOKEN', '')}\r\n"
        self._open = (
            f"POST /v1/connections HTTP/1.1\r\n{common}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._close = f"DELETE /v1/connections/%d HTTP/1.1\r\n{common}\r\n"
        self._left = left
        self._done = done
        self._data = b""
        self._is_open = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            return
        self._left[0] -= 1
        self._transport.write(self._open)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not end or length is None or len(rest) < int(length[1]):
            return
        assert head.startswith(b"HTTP/1.1 20"), self._data
        self._data = b""
        self._is_open = not self._is_open
        if self._is_open:
            found = _ID.search(rest)
            assert found is not None, rest
            self._transport.write((self._close % int(found[1])).encode())
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left[1] -= 1
        if not self._left[1]:
            self._done.set()


async def cycles(url: str, count: int, concurrency: int, target: str) -> None:
    parts = urlsplit(url)
    left, done = [count, concurrency], asyncio.Event()
    body = json.dumps({"url": target}).encode()
    loop = asyncio.get_running_loop()
    begin = time.monotonic()
    for _ in range(concurrency):
        await loop.create_connection(lambda: Cycler(parts.netloc, body, left, done), parts.hostname, parts.port)
    await done.wait()
    print(json.dumps({"rate": count / (time.monotonic() - begin)}), flush=True)


async def plain(url: str, count: int, concurrency: int) -> None:
    """What a plain aiohttp client does."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        numbers = iter(range(count))
        sockets = []

        async def some() -> None:
            for _ in numbers:
                sockets.append(await session.ws_connect(url))

        used = _used_s()
        begin = time.monotonic()
        await asyncio.gather(*(some() for _ in range(concurrency)))
        took = time.monotonic() - begin
        used = _used_s() - used
    print(json.dumps({"rate": count / took, "cpu_us": used / count * 1e6}), flush=True)


def _used_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def opens(count: int, concurrency: int = CONCURRENCY) -> Figures:
    """Opens a second by REST, and their CPU; then those of a plain aiohttp client that opens the same."""
    gateway = Mooring().start()
    server = Tool("server")
    try:
        url = f"ws://127.0.0.1:{server.line()['port']}/echo"
        gateway.request("PUT", "/v1/workers/main")
        body = json.dumps({"url": url})
        pids = gateway.pids()
        before = [cpu_s([pid]) for pid in pids]
        path = gateway.url + "/v1/connections"
        found = Tool("post", path, count, concurrency, body, "application/json", token=gateway.token).result()
        used = [(cpu_s([pid]) - past) / count * 1e6 for pid, past in zip(pids, before, strict=True)]
        theirs = Tool("plain", url, count, concurrency, module="opens").result()
        return {
            "rate": found["rate"],
            "p99": found["p99"],
            "service_us": used[0],
            "worker_us": sum(used[1:]),
            "plain_rate": theirs["rate"],
            "plain_us": theirs["cpu_us"],
        }
    finally:
        gateway.stop()
        server.close()


def opens_and_ends(gateway: Gateway, count: int, concurrency: int = CONCURRENCY) -> Figures:
    """Opens and terminates by REST: how many a second, and the CPU of all processes of the gateway for each."""
    gateway.start()
    server = Tool("server")
    try:
        url = f"ws://127.0.0.1:{server.line()['port']}/echo"
        if isinstance(gateway, Mooring):
            gateway.request("PUT", "/v1/workers/main")
        pids = gateway.pids()
        used = cpu_s(pids)
        found = Tool("cycles", gateway.url, count, concurrency, url, token=gateway.token, module="opens").result()
        return {"rate": found["rate"], "cpu_us": (cpu_s(pids) - used) / count * 1e6}
    finally:
        gateway.stop()
        server.close()


def section(report: Any, quick: bool) -> None:
    """Measure both."""
    count, turns = (2_000, 3) if quick else (5_000, 5)
    works: dict[str, Callable[[], Figures]] = {
        "opens": lambda: opens(count),
        "mooring": lambda: opens_and_ends(Mooring(), count),
        "aiohttp": lambda: opens_and_ends(Aiohttp(), count),
    }
    found: dict[str, list[Figures]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            found[name].append(work())
    report.figures["opens"] = found

    def median(name: str, key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    share = statistics.median(one["rate"] / one["plain_rate"] for one in found["opens"])
    report.add(
        f"opens at concurrency {CONCURRENCY}",
        f"{median('opens', 'rate'):,.0f}/s, p99 {median('opens', 'p99') * 1e3:.0f} ms, CPU service "
        f"{median('opens', 'service_us'):.0f} + worker {median('opens', 'worker_us'):.0f} µs",
        f"{share:.2f} × plain aiohttp client ({median('opens', 'plain_rate'):,.0f}/s, {median('opens', 'plain_us'):.0f} µs)",
        "0.9 ×",
    )
    both = [a["cpu_us"] / b["cpu_us"] for a, b in zip(found["mooring"], found["aiohttp"], strict=True)]
    report.add(
        "open and terminate by REST",
        f"{median('mooring', 'rate'):,.0f}/s, {median('mooring', 'cpu_us'):.0f} µs CPU",
        f"{statistics.median(both):.2f} × CPU of aiohttp ({median('aiohttp', 'rate'):,.0f}/s, {median('aiohttp', 'cpu_us'):.0f} µs)",
        "CPU 1.3 ×",
    )


def main() -> None:
    match sys.argv[1:]:
        case ["cycles", url, count, concurrency, target]:
            uvloop.run(cycles(url, int(count), int(concurrency), target))
        case ["plain", url, count, concurrency]:
            uvloop.run(plain(url, int(count), int(concurrency)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
