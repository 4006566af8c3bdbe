"""Kept connections: what one costs idle and flooded, what ten thousand cost that wait, and a storm of returns.

python -m tests.bench.kept server [PORT]   a server that counts who comes and when; a line on standard input asks it for that
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvloop

from tests.bench import measure
from tests.bench.gateways import Mooring, Tool, cpu_s
from tests.bench.tools import FloodServer

Figures = dict[str, float]
THREADS = 16
NEVER = {"minDelay": 3600, "maxDelay": 3600}
RATE, BURST = 50, 10  # of the limiter, by default


class CountingServer(FloodServer):
    """Takes handshakes, and counts them; of each path it knows how many sockets there are."""

    came_at: list[float] = []
    there: Counter[str] = Counter()
    most = 0

    def data_received(self, data: bytes) -> None:
        was_open = self.open
        super().data_received(data)
        if self.open and not was_open:
            kind = type(self)
            kind.came_at.append(time.monotonic())
            kind.there[self.path] += 1
            kind.most = max(kind.most, kind.there[self.path])

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.open:
            self.there[self.path] -= 1


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(CountingServer, "127.0.0.1", port, backlog=4096, reuse_address=True)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)

    def asked() -> None:
        # Ends with the process: its standard input is closed then.
        for _ in sys.stdin:
            came_at = list(CountingServer.came_at)
            print(json.dumps({"came_at": came_at, "most": CountingServer.most}), flush=True)

    threading.Thread(target=asked, daemon=True).start()
    await asyncio.Event().wait()


def _open(gateway: Mooring, port: int, count: int, reconnect: Any) -> None:
    """Open `count` connections on one worker, each with a path of its own."""

    def some(first: int) -> None:
        api = http.client.HTTPConnection(gateway.url.removeprefix("http://"))
        headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
        for number in range(first, count, THREADS):
            body = {"url": f"ws://127.0.0.1:{port}/{number}", "reconnect": reconnect}
            api.request("POST", "/v1/connections", json.dumps(body), headers)
            answer = api.getresponse()
            text = answer.read()
            assert answer.status == 201, (answer.status, text)
        api.close()

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(some, range(THREADS)))


def _gateway(count: int) -> Mooring:
    limits = {"MOORING_LIMITS_MAX_CONNECTIONS": count + 10, "MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": count + 10}
    gateway = Mooring(env={name: str(value) for name, value in limits.items()})
    gateway.start()
    return gateway


def _until(true: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def _count(gateway: Mooring, status: str) -> int:
    """How many connections have `status`, as /metrics counts them: a list of all would cost more than what is measured."""
    text = http.client.HTTPConnection(gateway.url.removeprefix("http://"))
    text.request("GET", "/metrics", headers={"Authorization": f"Bearer {gateway.token}"})
    lines = text.getresponse().read().decode().splitlines()
    text.close()
    name = "mooring_connections{"
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(name) and f'"{status}"' in line)


def waiting(count: int, watch_s: float) -> Figures:
    """`count` connections that wait for their next dial: the CPU of their worker, and of the service."""
    gateway = _gateway(count)
    server = Tool("server", module="kept")
    try:
        _open(gateway, server.line()["port"], count, NEVER)
        server.close()
        _until(lambda: _count(gateway, "Reconnecting") == count, 60)
        time.sleep(3)
        pids = gateway.pids()
        before = [cpu_s([pid]) for pid in pids]
        time.sleep(watch_s)
        used = [cpu_s([pid]) - past for pid, past in zip(pids, before, strict=True)]
        return {"worker_percent": used[1] / watch_s * 100, "service_percent": used[0] / watch_s * 100}
    finally:
        server.close()
        gateway.stop()


def storm(count: int, away_s: float) -> Figures:
    """`count` connections of one worker lose their server by SIGKILL, which is back `away_s` later: how they return."""
    gateway = _gateway(count)
    server = Tool("server", module="kept")
    again: Tool | None = None
    try:
        port = server.line()["port"]
        _open(gateway, port, count, True)
        pids = gateway.worker_pids()
        before, began = cpu_s(pids), time.monotonic()
        server.close()
        time.sleep(away_s)
        again = Tool("server", port, module="kept")
        again.line()
        back_at = time.monotonic()
        _until(lambda: _count(gateway, "Connected") == count, 180)
        ready_s, cpu = time.monotonic() - back_at, (cpu_s(pids) - before) / (time.monotonic() - began)
        again.tell()
        told = again.line()
        first = told["came_at"][0]
        seconds = Counter(int(at - first) for at in told["came_at"])
        return {
            "first_second": seconds[0],
            "later_second": max((number for second, number in seconds.items() if second), default=0),
            "accepted": len(told["came_at"]),
            "ready_s": ready_s,
            "most_sockets": told["most"],
            "cpu_percent": cpu * 100,
        }
    finally:
        for tool in (server, again):
            if tool is not None:
                tool.close()
        gateway.stop()


def section(report: Any, quick: bool) -> None:
    """Measure all of it."""
    from tests.bench.__main__ import in_turns, median, ratio

    rounds = 1 if quick else 3
    count = 50_000 if quick else 400_000
    flooded = in_turns(
        rounds if quick else 5,
        {
            "plain": lambda: measure.events(Mooring(), count),
            "kept": lambda: measure.events(Mooring(), count, reconnect=True),
        },
    )
    report.figures["kept flood"] = flooded
    report.add(
        "events of a kept connection",
        f"{median(flooded['kept'], 'cpu_us'):.2f} µs CPU",
        f"{ratio(flooded['kept'], flooded['plain'], 'cpu_us'):.3f} × one that is not kept",
        "1.03 ×",
    )
    idle_count = 1_000 if quick else 4_000
    idle = in_turns(
        rounds,
        {
            "plain": lambda: measure.idle(idle_count, 1, 1),
            "kept": lambda: measure.idle(idle_count, 1, 1, reconnect=True),
        },
    )
    report.figures["kept idle"] = idle
    more = median(idle["kept"], "bytes_each") - median(idle["plain"], "bytes_each")
    report.add(
        f"{idle_count:,} idle kept connections",
        f"{median(idle['kept'], 'bytes_each') / 1024:.2f} KiB each",
        f"{more / 1024:+.2f} KiB to one that is not kept",
        "+ 1 KiB",
    )
    many = 1_000 if quick else 10_000
    found = waiting(many, 5 if quick else 20)
    report.figures["kept waiting"] = found
    report.add(
        f"{many:,} that wait for their dial",
        f"{found['worker_percent']:.2f} % of a core",
        f"service {found['service_percent']:.2f} %",
        "2 %",
    )
    for away_s in (3,) if quick else (3, 60):
        size = 300 if quick else 2_000
        found = storm(size, away_s)
        report.figures[f"kept storm {away_s}"] = found
        report.add(
            f"storm of {size:,}, server away {away_s} s",
            f"all ready {found['ready_s']:.1f} s after its return, {found['cpu_percent']:.0f} % of a core",
            f"{found['first_second']:.0f} accepted in the first second, ≤ {found['later_second']:.0f} in a later one, "
            f"{found['most_sockets']:.0f} socket of an id at most",
            f"{RATE + BURST + 6} and {RATE + 5}; 45 s, 105 s; 30 %",
        )
    print(f"load {os.getloadavg()[0]:.1f}")


def main() -> None:
    match sys.argv[1:]:
        case ["server", *port]:
            uvloop.run(serve(int(port[0]) if port else 0))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
