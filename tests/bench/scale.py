"""Many of everything: connections of a hundred thousand, workers that all start at once, and whether the loop answers meanwhile."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.bench.gateways import Aiohttp, Gateway, Mooring, Tool, pss_bytes

Figures = dict[str, float]
THREADS = 16
SERVER_CONNECTIONS = 12_500  # of one server process: below what a process may open
POLL_S = 0.005


class Poll:
    """Asks a gateway for `path` each 5 ms, on a thread, until it is left; knows how long the slowest answers took."""

    def __init__(self, gateway: Gateway, path: str = "/healthz") -> None:
        self._address = gateway.url.removeprefix("http://")
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took_ms: list[float] = []

    def __enter__(self) -> Poll:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        api = http.client.HTTPConnection(self._address, timeout=60)
        while not self._ended.wait(POLL_S):
            begin = time.monotonic()
            api.request("GET", self._path)
            api.getresponse().read()
            self.took_ms.append((time.monotonic() - begin) * 1e3)
        api.close()

    @property
    def longest_ms(self) -> float:
        return max(self.took_ms, default=0.0)


def polled(gateway: Gateway, idle: Gateway, work: Callable[[], object]) -> tuple[float, float]:
    """Do `work`; return how long the slowest answer of `gateway` took meanwhile, and that of one which does nothing, in milliseconds."""
    with Poll(gateway) as ours, Poll(idle, "/") as control:
        work()
    return ours.longest_ms, control.longest_ms


def open_all(gateway: Mooring, urls: list[str], count: int, workers: int) -> float:
    """Open `count` connections, of each URL as many, spread over `workers`; return how many a second."""

    def open_some(thread: int) -> None:
        api = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=120)
        headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
        for number in range(thread, count, THREADS):
            body = {"url": urls[number % len(urls)], "worker": f"w{number % workers}", "pingInterval": 30}
            api.request("POST", "/v1/connections", json.dumps(body), headers)
            answer = api.getresponse()
            text = answer.read()
            assert answer.status == 201, (answer.status, text)
        api.close()

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(open_some, range(THREADS)))
    return count / (time.monotonic() - begin)


def page_ms(gateway: Mooring, after: int) -> float:
    """Return how long a page of the list takes."""
    times = []
    for _ in range(9):
        begin = time.monotonic()
        gateway.request("GET", f"/v1/connections?limit=100&after={after}")
        times.append((time.monotonic() - begin) * 1e3)
    return statistics.median(times)


def live(gateway: Mooring) -> int:
    """Return how many connections are held."""
    return sum(worker["connections"] for worker in gateway.request("GET", "/v1/workers")["workers"])


def until(ready: Callable[[], bool], seconds: float) -> bool:
    """Wait until it is so; say whether it came to that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.02)
    return False


def many(count: int, workers: int) -> Figures:
    """Connections to several servers, each at a loopback address of its own: held, what one takes, how long pages take, and their adoption."""
    limits = {
        "MOORING_LIMITS_MAX_CONNECTIONS": str(count + 10),
        "MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": str(count),
    }
    gateway = Mooring(env=limits).start()
    idle = Aiohttp().start()
    servers = [Tool("server", f"127.0.1.{number + 1}") for number in range(-(-count // SERVER_CONNECTIONS))]
    try:
        urls = [f"ws://127.0.1.{at}:{server.line()['port']}/echo" for at, server in enumerate(servers, 1)]
        for number in range(workers):
            gateway.request("PUT", f"/v1/workers/w{number}")
        time.sleep(1)
        before = pss_bytes(gateway.pids())
        rate = open_all(gateway, urls, count, workers)
        time.sleep(3)
        each = (pss_bytes(gateway.pids()) - before) / count
        pages = [page_ms(gateway, after) for after in (0, count // 2, count - 100)]
        gateway.process.kill()
        gateway.process.wait()
        gateway.start()
        adopted, control = polled(gateway, idle, lambda: until(lambda: live(gateway) == count, 120))
        return {
            "held": live(gateway),
            "bytes_each": each,
            "open_rate": rate,
            "first_page_ms": pages[0],
            "middle_page_ms": pages[1],
            "last_page_ms": pages[2],
            "adoption_longest_ms": adopted,
            "adoption_idle_ms": control,
        }
    finally:
        gateway.stop()
        idle.stop()
        for server in servers:
            server.close()


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

        ours, control = polled(gateway, idle, flood)
        return {"longest_ms": ours, "idle_ms": control, "first": _first(gateway)}
    finally:
        gateway.stop()
        idle.stop()
        server.close()


def _first(gateway: Mooring) -> int:
    events = gateway.request("GET", "/v1/events?after=start&limit=1")["events"]
    return int(events[0]["id"].split("-")[1]) if events else 0


def reboot(count: int) -> Figures:
    """All processes are killed, as by a reboot; the next service has all workers Running again, and no start has met its time-out."""
    # The kernel is still the same one, so each has died: behind a real reboot there is no delay.
    gateway = Mooring(env={"MOORING_SUPERVISOR_RESTART_DELAY": "0.001"}).start()
    try:
        alone = []
        for number in range(count):
            begin = time.monotonic()
            gateway.request("PUT", f"/v1/workers/w{number}")
            alone.append(time.monotonic() - begin)
        pids = gateway.pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gateway.process.wait()
        begin = time.monotonic()
        gateway.start()
        listening = time.monotonic()
        all_running = until(lambda: _running(gateway) == count, 60 + count)
        took = time.monotonic() - listening
        one = statistics.median(alone)
        return {
            "running": _running(gateway),
            "all_running": float(all_running),
            "service_s": listening - begin,
            "workers_s": took,
            "one_s": one,
            "bound_s": 1.2 * count * one / (os.cpu_count() or 1),
            "restarts": sum(worker["restarts"] for worker in _workers(gateway)),
        }
    finally:
        gateway.stop()


def _workers(gateway: Mooring) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.request("GET", "/v1/workers")["workers"]
    return found


def _running(gateway: Mooring) -> int:
    return sum(worker["status"] == "Running" for worker in _workers(gateway))


def section(report: Any, quick: bool) -> None:
    """Measure all of it; `quick`: a tenth."""
    for count in (16,) if quick else (64, 200):
        found = reboot(count)
        report.figures[f"reboot {count}"] = found
        report.add(
            f"{count} workers after a reboot",
            f"{found['running']:.0f} Running {found['workers_s']:.1f} s after the service listens ({found['restarts']:.0f} restarts)",
            f"1.2 × n × one start / cores = {found['bound_s']:.1f} s (one: {found['one_s'] * 1e3:.0f} ms)",
            "all, within that",
        )
    found = pruning(20_000 if quick else 200_000)
    report.figures["pruning"] = found
    report.add(
        "slowest /healthz while events are pruned",
        f"{found['longest_ms']:.0f} ms",
        f"a server that does nothing: {found['idle_ms']:.0f} ms",
        "20 ms",
    )
    for count, workers in ((2_000, 4),) if quick else ((20_000, 4), (100_000, 8)):
        found = many(count, workers)
        report.figures[f"many {count}"] = found
        report.add(
            f"{count:,} idle connections on {workers} workers",
            f"{found['held']:,.0f} held, {found['bytes_each'] / 1024:.1f} KiB each; pages of the list "
            f"{found['first_page_ms']:.1f}, {found['middle_page_ms']:.1f}, {found['last_page_ms']:.1f} ms",
            f"opened at {found['open_rate']:.0f}/s; slowest /healthz while adopted {found['adoption_longest_ms']:.0f} ms "
            f"(a server that does nothing: {found['adoption_idle_ms']:.0f} ms)",
            "14 KiB, flat; 20 ms",
        )
