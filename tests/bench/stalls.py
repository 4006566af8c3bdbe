"""Whether the service's loop answers meanwhile: the slowest `/healthz`, asked each 5 ms, beside that of a server that does nothing.

python -m tests.bench.stalls poll ADDRESS PATH   asks until a line comes on standard input, then tells how long the answers took
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.bench.gateways import Aiohttp, Gateway, Mooring, Tool

Figures = dict[str, float]
POLL_S = 0.005
STALL_MS = 20.0


class Poll:
    """Asks a gateway for `path` each 5 ms, in a process of its own, until it is left."""

    def __init__(self, gateway: Gateway, path: str) -> None:
        self._tool = Tool("poll", gateway.url.removeprefix("http://"), path, module="stalls")
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Poll:
        self._tool.line()
        return self

    def __exit__(self, *exc: object) -> None:
        self._tool.tell()
        self.figures = self._tool.result()


def polled(gateway: Gateway, idle: Gateway, work: Callable[[], object]) -> Figures:
    """Do `work`; return how long the slowest answers of `gateway` took meanwhile, and those of one which does nothing."""
    with Poll(gateway, "/healthz") as ours, Poll(idle, "/") as control:
        work()
    return {**ours.figures, **{f"idle_{name}": value for name, value in control.figures.items()}}


def words(found: Figures) -> tuple[str, str]:
    """Return what the table says of both."""
    return (
        f"longest {found['longest_ms']:.0f} ms, {found['over']:.0f} of {found['count']:.0f} over {STALL_MS:.0f} ms",
        f"a server that does nothing: {found['idle_longest_ms']:.0f} ms, {found['idle_over']:.0f} over",
    )


def until(ready: Callable[[], bool], seconds: float, every_s: float = 0.02) -> bool:
    """Wait until it is so; say whether it came to that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(every_s)
    return False


def pruning(count: int) -> Figures:
    """A flood into a journal that is full: the slowest answer while the oldest events go."""
    gateway = Mooring(env={"MOORING_JOURNAL_MAX_EVENTS": str(count // 4)}).start()
    idle = Aiohttp().start()
    server = Tool("server")
    try:
        connection = gateway.open(f"ws://127.0.0.1:{server.line()['port']}/rate?rate=5000&s={count / 5_000}")

        def flood() -> None:
            gateway.send(connection, "go")
            until(lambda: _first(gateway) > count // 2, 120)

        return {**polled(gateway, idle, flood), "first": _first(gateway)}
    finally:
        gateway.stop()
        idle.stop()
        server.close()


def _first(gateway: Mooring) -> int:
    events = gateway.request("GET", "/v1/events?after=start&limit=1")["events"]
    return int(events[0]["id"].split("-")[1]) if events else 0


def section(report: Any, quick: bool) -> None:
    """Measure the pruning; what many connections do is measured where there are many (`scale`)."""
    found = pruning(20_000 if quick else 200_000)
    report.figures["pruning"] = found
    ours, control = words(found)
    report.add("/healthz while events are pruned", ours, control, "20 ms")


def poll(address: str, path: str) -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    api = http.client.HTTPConnection(address, timeout=60)
    took_ms = []
    print(json.dumps({"ready": True}), flush=True)
    while not ended.wait(POLL_S):
        begin = time.monotonic()
        api.request("GET", path)
        api.getresponse().read()
        took_ms.append((time.monotonic() - begin) * 1e3)
    api.close()
    took_ms.sort()
    over = sum(took > STALL_MS for took in took_ms)
    p99 = took_ms[int(len(took_ms) * 0.99)] if took_ms else 0.0
    print(json.dumps({"longest_ms": max(took_ms, default=0.0), "p99_ms": p99, "over": over, "count": len(took_ms)}))


if __name__ == "__main__":
    poll(*sys.argv[2:])
