"""Many of everything: connections of a hundred thousand, and workers that all start at once."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import statistics
import time
from typing import Any

from tests.bench.gateways import Aiohttp, Mooring, Tool, cpu_s, pss_bytes
from tests.bench.stalls import Figures, polled, until, words

THREADS = 16
SERVER_CONNECTIONS = 12_500  # of one server process: below what a process may open
PINGS_S = 30


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


def terminate_all(gateway: Mooring, ids: list[int]) -> None:
    """Terminate connections, each by a request of its own."""

    def some(thread: int) -> None:
        api = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=120)
        for connection in ids[thread::THREADS]:
            api.request("DELETE", f"/v1/connections/{connection}", headers={"Authorization": f"Bearer {gateway.token}"})
            answer = api.getresponse()
            text = answer.read()
            assert answer.status == 200, (answer.status, text)
        api.close()

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(some, range(THREADS)))


def stalls(gateway: Mooring, idle: Aiohttp, count: int, workers: int) -> dict[str, Figures]:
    """What is done with many connections at once, and how long `/healthz` took meanwhile. It leaves few of them."""
    each = count // workers

    def asked(path: str) -> Figures:
        return polled(gateway, idle, lambda: [ask(gateway, path) for _ in range(50)])

    def adopt() -> None:
        until(lambda: _running(gateway) == workers and live(gateway) == count, 120)
        time.sleep(1)  # what follows the welcome

    def die() -> None:
        os.kill(next(worker["pid"] for worker in _workers(gateway) if worker["name"] == "w0"), signal.SIGKILL)
        until(lambda: live(gateway) == count - each, 120)

    def kill() -> None:
        gateway.request("DELETE", "/v1/workers/w1")
        until(lambda: live(gateway) == count - 2 * each, 120)

    found = {
        "/metrics": asked("/metrics"),
        "a list that finds nothing": asked("/v1/connections?status=Closing&limit=100"),
        "the last page": asked(f"/v1/connections?limit=100&after={count - 100}"),
    }
    gateway.process.kill()
    gateway.process.wait()
    gateway.start()
    found[f"adoption of {count:,}"] = polled(gateway, idle, adopt)
    held = live(gateway)
    found[f"death of a worker with {each:,}"] = polled(gateway, idle, die)
    found[f"end of a worker with {each:,}"] = polled(gateway, idle, kill)
    page = gateway.request("GET", "/v1/connections?worker=w2&status=Connected&limit=1000")["connections"]
    ids = [record["id"] for record in page]
    found[f"{len(ids):,} terminated"] = polled(gateway, idle, lambda: terminate_all(gateway, ids))
    assert held == count, (held, count)
    return found


def ask(gateway: Mooring, path: str) -> None:
    """Ask for `path`, whatever it answers with."""
    api = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
    api.request("GET", path, headers={"Authorization": f"Bearer {gateway.token}"})
    answer = api.getresponse()
    answer.read()
    assert answer.status == 200, (path, answer.status)
    api.close()


def many(count: int, workers: int) -> tuple[Figures, dict[str, Figures]]:
    """Connections to several servers, each at a loopback address of its own: held, what one takes, how long pages take, and stalls."""
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
        pids = gateway.pids()
        each = (pss_bytes(pids) - before) / count
        used = cpu_s(pids)
        time.sleep(PINGS_S)
        used = cpu_s(pids) - used
        pages = [page_ms(gateway, after) for after in (0, count // 2, count - 100)]
        figures = {
            "held": live(gateway),
            "bytes_each": each,
            "open_rate": rate,
            "pings_percent": used / PINGS_S * 100,
            "first_page_ms": pages[0],
            "middle_page_ms": pages[1],
            "last_page_ms": pages[2],
        }
        return figures, stalls(gateway, idle, count, workers)
    finally:
        gateway.stop()
        idle.stop()
        for server in servers:
            server.close()


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
        all_running = until(lambda: _running(gateway) == count, 60 + count, 0.05)
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


def reboot_section(report: Any, quick: bool) -> None:
    """Measure how long workers take behind a reboot; `quick`: few."""
    for count in (16,) if quick else (64, 200):
        found = reboot(count)
        report.figures[f"reboot {count}"] = found
        report.add(
            f"{count} workers after a reboot",
            f"{found['running']:.0f} Running {found['workers_s']:.1f} s after the service listens ({found['restarts']:.0f} restarts)",
            f"1.2 × n × one start / cores = {found['bound_s']:.1f} s (one: {found['one_s'] * 1e3:.0f} ms)",
            "all, within that",
        )


def many_section(report: Any, quick: bool) -> None:
    """Measure many connections; `quick`: a tenth."""
    for count, workers in ((2_000, 4),) if quick else ((20_000, 4), (100_000, 8)):
        found, stalled = many(count, workers)
        report.figures[f"many {count}"] = {**found, "stalls": stalled}
        report.add(
            f"{count:,} idle connections on {workers} workers",
            f"{found['held']:,.0f} held, {found['bytes_each'] / 1024:.1f} KiB each; pages of the list "
            f"{found['first_page_ms']:.1f}, {found['middle_page_ms']:.1f}, {found['last_page_ms']:.1f} ms",
            f"opened at {found['open_rate']:.0f}/s; pings each {PINGS_S} s {found['pings_percent']:.1f} % of a core",
            "14 KiB, flat; 20,000: 4 %",
        )
        for what, one in stalled.items():
            report.add(f"  /healthz meanwhile: {what}", *words(one), "20 ms")
