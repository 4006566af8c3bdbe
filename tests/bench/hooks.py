"""Hooks: pages to a receiver, from the socket to the receiver, what busy ones cost a subscriber, what dead ones cost.

python -m tests.bench.hooks receive          a receiver: answers 200 at once, and tells for each line of standard input what came when
python -m tests.bench.hooks dead [SECONDS]   a hundred hooks to a dead port for ten minutes (or so long), beside a service without one
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import statistics
import sys
import time
import urllib.request
from typing import Any

import uvloop

from tests.bench import measure
from tests.bench.gateways import Mooring, Tool, cpu_s

STAMP = re.compile(rb"t=(\d{19})")
MESSAGE = b'"kind":"onMessage"'
LENGTH = re.compile(rb"content-length: (\d+)", re.I)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ATTEMPTS = re.compile(rb"^mooring_hook_attempts_total\{[^}]*\} (\S+)$", re.M)
BUSY, DEAD, CONNECTIONS = 10, 100, 50
STALL_S = 12.0  # a subscriber bears so long a silence: others may want the machine; a stream has a comment each 15 s


class Receiver(asyncio.Protocol):
    """Reads POSTs on one connection; all of them count together."""

    events = posts = 0
    first = last = 0.0
    late: list[int] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = bytearray()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            size = end + 4 + int(LENGTH.search(self.data, 0, end)[1])
            if len(self.data) < size:
                return
            now, ours = time.monotonic_ns(), Receiver
            body = bytes(self.data[end + 4 : size])
            del self.data[:size]
            self.transport.write(ANSWER)
            ours.posts += 1
            ours.events += body.count(MESSAGE)
            ours.first, ours.last = ours.first or now / 1e9, now / 1e9
            if len(ours.late) < 100_000:
                ours.late += [now - int(found[1]) for found in STAMP.finditer(body)]


async def receive() -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        late = sorted(Receiver.late)
        shares = (
            {f"p{share}": late[min(len(late) - 1, len(late) * share // 100)] / 1e6 for share in (50, 99)}
            if late
            else {}
        )
        figures = {"events": Receiver.events, "posts": Receiver.posts, "s": Receiver.last - Receiver.first, **shares}
        print(json.dumps(figures), flush=True)


class WithHooks(Mooring):
    """A service with hooks, each to `port`."""

    def __init__(self, port: int, count: int, **options: Any) -> None:
        super().__init__()
        self._port, self._count, self._hook = port, count, options

    def start(self) -> Mooring:
        super().start()
        for number in range(self._count):
            body = {"url": f"http://127.0.0.1:{self._port}/", **self._hook}
            self.request("PUT", f"/v1/hooks/h{number}", json.dumps(body).encode())
        return self


def pages(count: int) -> dict[str, float]:
    """Have `count` messages in the journal, and then a hook that catches up with them, 500 in a POST."""
    receiver, server = Tool("receive", module="hooks"), Tool("server")
    gateway = WithHooks(receiver.line()["port"], 1, after="start", paused=True)
    gateway.start()
    try:
        url = f"ws://127.0.0.1:{server.line()['port']}/flood?count={count}"
        opened = gateway.open(url)
        gateway.send(opened, "go")
        while gateway.request("GET", f"/v1/connections/{opened}")["stats"]["messagesIn"] < count:
            time.sleep(0.05)
        time.sleep(0.5)
        used = cpu_s([gateway.process.pid])
        gateway.request("POST", "/v1/hooks/h0/resume")
        while (told := told_by(receiver))["events"] < count:
            time.sleep(0.05)
        return {
            "rate": count / told["s"],
            "posts": told["posts"],
            "cpu_us": (cpu_s([gateway.process.pid]) - used) / count * 1e6,
        }
    finally:
        gateway.stop()
        receiver.close()
        server.close()


def told_by(receiver: Tool) -> dict[str, Any]:
    receiver.tell(now=True)
    return receiver.line()


def latency(rate: int, seconds: float) -> dict[str, float]:
    """Scattered messages, `rate` a second: from the server's write to the receiver's read."""
    receiver = Tool("receive", module="hooks")
    gateway = WithHooks(receiver.line()["port"], 1, kinds=["onMessage"])
    try:
        measure.sparse(gateway, 16, rate, seconds, quiet_s=2.0 if rate > 10 else STALL_S)
        told = told_by(receiver)
        return {"p50": told["p50"], "p99": told["p99"]}
    finally:
        receiver.close()


def busy(count: int, rate: int, seconds: float) -> dict[str, float]:
    """What a subscriber sees of scattered messages beside `count` hooks that get all of them."""
    receiver = Tool("receive", module="hooks")
    try:
        return measure.sparse(WithHooks(receiver.line()["port"], count), 200, rate, seconds)
    finally:
        receiver.close()


def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def beside_dead(count: int, rate: int, seconds: float) -> dict[str, float]:
    """What a subscriber sees of scattered messages beside `count` hooks to a port without a server."""
    return measure.sparse(WithHooks(dead_port(), count), 200, rate, seconds)


def dead(count: int, seconds: float) -> dict[str, float]:
    """The share of a core that `count` hooks to a port without a server take once they have settled."""
    gateway = WithHooks(dead_port(), count, after="start", retry={"delay": 30, "maxDelay": 60})
    gateway.start()
    try:
        gateway.request("PUT", "/v1/workers/main")
        time.sleep(2)
        used, begun = cpu_s([gateway.process.pid]), time.monotonic()
        time.sleep(seconds)
        return {"share": (cpu_s([gateway.process.pid]) - used) / (time.monotonic() - begun)}
    finally:
        gateway.stop()


class Watched:
    """A service under a few messages a second for long: its subscriber, its CPU, what its hooks try."""

    def __init__(self, hooks: int) -> None:
        self.gateway = WithHooks(dead_port(), hooks)
        self.gateway.start()
        self.server = Tool("server", module="sparse")
        url = f"ws://127.0.0.1:{self.server.line()['port']}/quiet"
        measure.open_many(self.gateway, url, CONNECTIONS, 2)
        events = self.gateway.url + "/v1/events"
        self.reader = Tool("subscribe", events, 1 << 30, STALL_S, token=self.gateway.token, module="sparse")
        self.reader.line()
        self.used_s = self.cpu_s

    @property
    def cpu_s(self) -> float:
        return cpu_s([self.gateway.process.pid])

    @property
    def attempts(self) -> int:
        request = urllib.request.Request(self.gateway.url + "/metrics")
        request.add_header("Authorization", f"Bearer {self.gateway.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return sum(int(float(found[1])) for found in ATTEMPTS.finditer(answer.read()))

    def close(self) -> None:
        for tool in (self.server, self.reader):
            tool.close()
        self.gateway.stop()


def dead_for_long(seconds: float, rate: float) -> None:
    """Have two services side by side, with and without hooks that nobody answers; print what each minute was like, and all of it."""
    services = Watched(DEAD), Watched(0)
    with_hooks = services[0]
    try:
        begun, counts, seconds_of = time.monotonic(), [with_hooks.attempts], [0.0]
        for service in services:
            service.server.tell(rate=rate, seconds=seconds, seed=1)
        while (left := seconds - (time.monotonic() - begun)) > 0:
            time.sleep(min(60.0, left))
            counts.append(with_hooks.attempts)
            seconds_of.append(time.monotonic() - begun)
            tries = (counts[-1] - counts[-2]) / (seconds_of[-1] - seconds_of[-2])
            print(f"{seconds_of[-1]:4.0f} s: {tries:.2f} attempts/s; load {os.getloadavg()[0]:.1f}", flush=True)
        passed = time.monotonic() - begun
        shares = [(service.cpu_s - service.used_s) / passed for service in services]
        mine, other = (service.reader.line() for service in services)
        for what, sent in (("with", mine), ("without", other)):
            seen, p50, p99, worst = (sent[key] for key in ("seen", "p50_ms", "p99_ms", "max_ms"))
            print(f"{what} {DEAD} hooks: {seen:,} messages, p50 {p50:.2f}, p99 {p99:.2f}, at most {worst:.0f} ms")
        print(
            f"p99 {mine['p99_ms'] / other['p99_ms']:.2f} × without (to reach: 1.2 ×); "
            f"{(counts[-1] - counts[0]) / passed:.2f} attempts/s in all (4); "
            f"service {shares[0]:.1%} of a core, {shares[0] - shares[1]:.1%} of it for hooks (3 %)"
        )
    finally:
        for service in services:
            service.close()


def section(report: Any, quick: bool) -> None:
    """Add the figures of hooks to a report."""
    rounds = 1 if quick else 3
    found = [pages(100_000 if quick else 400_000) for _ in range(rounds)]
    rate = statistics.median(one["rate"] for one in found)
    report.add(
        "hook: pages of 500 to a receiver",
        f"{rate / 1000:,.0f} k/s",
        f"{found[0]['cpu_us']:.1f} µs of the service",
        "≥ 100 k/s",
    )
    late = {
        rate: latency(rate, seconds) for rate, seconds in ((1, 20.0 if quick else 60.0), (20, 5.0 if quick else 20.0))
    }
    for per_second, one in late.items():
        told = f"p50 {one['p50']:.2f} ms, p99 {one['p99']:.2f} ms"
        report.add(f"hook: socket to receiver, {per_second}/s", told, "", "p99 ≤ 10 ms")
    turns = [(busy(0, 500, 4.0), busy(BUSY, 500, 4.0), beside_dead(DEAD, 500, 4.0)) for _ in range(rounds)]
    alone, *besides = (statistics.median(turn[at]["p99"] for turn in turns) for at in range(3))
    for what, beside in zip((f"{BUSY} busy hooks", f"{DEAD} hooks to a dead port"), besides, strict=True):
        report.add(
            f"SSE p99 beside {what}", f"{beside:.2f} ms", f"{beside / alone:.2f} × without ({alone:.2f} ms)", "≤ 1.2 ×"
        )
    share = dead(DEAD, 5.0 if quick else 20.0)["share"]
    report.add(f"{DEAD} hooks to a dead port", f"{share:.1%} of a core", "", "< 3 %")
    report.figures["hooks"] = {"pages": found, "latency": late, "busy": turns, "dead": share}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive"]:
            uvloop.run(receive())
        case ["dead", *seconds]:
            dead_for_long(float(*seconds) if seconds else 600.0, rate=20.0)
        case _:
            sys.exit(__doc__)
