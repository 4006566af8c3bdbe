"""The measurements. Each returns plain figures; `__main__` repeats, compares and prints."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

from tests.bench.gateways import Aiohttp, Gateway, Mooring, Tool, cpu_s, pss_bytes, written_bytes

Figures = dict[str, float]


def events(
    gateway: Gateway,
    count: int,
    *,
    connections: int = 1,
    handler: bool = False,
    workers: int = 1,
    size: int = 100,
    **more: Any,
) -> Figures:
    """A server floods messages of `size` bytes, one subscriber reads all of it; `more` are options of the connections."""
    server = Tool("server")
    gateway.start()
    try:
        port = server.line()["port"]
        share = count // connections
        opened = []
        for index in range(connections):
            options: dict[str, Any] = dict(more)
            if isinstance(gateway, Mooring):
                options["worker"] = f"w{index % workers}"
                if handler:
                    options["handler"] = {"name": "count"}
            opened.append(gateway.open(f"ws://127.0.0.1:{port}/flood?count={share}&size={size}", **options))
        path = f"/v1/connections/{opened[0]}/events" if connections == 1 else "/v1/events"
        subscriber = Tool("subscribe", gateway.url + path, share * connections, 1, token=gateway.token)
        subscriber.line()
        pids = gateway.pids()
        before = cpu_s(pids)
        for connection in opened:
            gateway.send(connection, "go")
        result = subscriber.result()
        used = cpu_s(pids) - before
        total = share * connections
        return {"rate": total / (result["end"] - result["begin"]), "cpu_us": used / total * 1e6}
    finally:
        gateway.stop()
        server.close()


def fan_out(gateway: Gateway, subscribers: int, rate: int, seconds: float) -> Figures:
    """Many subscribers of one steady connection: complete, and at what CPU."""
    server = Tool("server")
    gateway.start()
    try:
        port = server.line()["port"]
        connection = gateway.open(f"ws://127.0.0.1:{port}/rate?rate={rate}&s={seconds}")
        count = int(rate * seconds)
        path = f"/v1/connections/{connection}/events"
        reader = Tool("subscribe", gateway.url + path, count, subscribers, token=gateway.token)
        reader.line()
        pids = gateway.pids()
        before = cpu_s(pids)
        begin = time.monotonic()
        gateway.send(connection, "go")
        result = reader.result()
        used = cpu_s(pids) - before
        return {
            "complete": min(result["seen"]) / count,
            "behind_s": max(0.0, result["end"] - begin - seconds),
            "cpu_s": used,
            "cpu_us": used / (count * subscribers) * 1e6,
            "p50": result["p50_ms"],
            "p99": result["p99_ms"],
        }
    finally:
        gateway.stop()
        server.close()


def sends(gateway: Gateway, count: int, concurrency: int, *, bare: bool = False) -> Figures:
    """REST sends of 100 bytes to a connection whose server takes them."""
    server = Tool("server")
    gateway.start()
    try:
        port = server.line()["port"]
        if bare:
            url = gateway.url + "/bare"
        else:
            connection = gateway.open(f"ws://127.0.0.1:{port}/sink")
            url = f"{gateway.url}/v1/connections/{connection}/messages"
        pids = gateway.pids()
        before = cpu_s(pids)
        result = Tool("post", url, count, concurrency, "x" * 100, "text/plain", token=gateway.token).result()
        return {**result, "cpu_us": (cpu_s(pids) - before) / count * 1e6}
    finally:
        gateway.stop()
        server.close()


def ndjson(gateway: Gateway, count: int) -> Figures:
    """One POST of many lines."""
    server = Tool("server")
    gateway.start()
    try:
        connection = gateway.open(f"ws://127.0.0.1:{server.line()['port']}/sink")
        pids = gateway.pids()
        before = cpu_s(pids)
        url = f"{gateway.url}/v1/connections/{connection}/messages"
        result = Tool("lines", url, count, token=gateway.token).result()
        return {**result, "cpu_us": (cpu_s(pids) - before) / count * 1e6}
    finally:
        gateway.stop()
        server.close()


def latency(gateway: Gateway, count: int) -> Figures:
    """REST → echo → SSE; and what a bare POST and a bare echo take."""
    server = Tool("server")
    gateway.start()
    peer = Aiohttp().start()
    try:
        port = server.line()["port"]
        connection = gateway.open(f"ws://127.0.0.1:{port}/echo")
        ours = Tool("latency", gateway.url, connection, count, token=gateway.token).result()
        bare = Tool("bare-latency", peer.url + "/bare", f"ws://127.0.0.1:{port}/echo", count).result()
        return {**ours, "bare_p50": bare["post_p50"] + bare["echo_p50"]}
    finally:
        gateway.stop()
        peer.stop()
        server.close()


def open_many(gateway: Gateway, url: str, count: int, workers: int, **options: Any) -> list[int]:
    """Open `count` connections, spread over `workers`; return their ids."""

    def open_some(worker: int) -> list[int]:
        # Sixteen threads with one connection each to the API: the opens are not what is measured here.
        api = http.client.HTTPConnection(gateway.url.removeprefix("http://"))
        headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
        body: dict[str, Any] = {"url": url}
        if isinstance(gateway, Mooring):
            body = {"url": url, **options, "worker": f"w{worker % workers}"}
        opened = []
        for _ in range(count // 16):
            api.request("POST", "/v1/connections", json.dumps(body), headers)
            answer = api.getresponse()
            text = answer.read()
            assert answer.status == 201, (answer.status, text)
            opened.append(json.loads(text)["id"])
        api.close()
        return opened

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return [connection for some in pool.map(open_some, range(16)) for connection in some]


def sparse(
    gateway: Gateway,
    connections: int,
    rate: int,
    seconds: float,
    *,
    workers: int = 2,
    handler: bool = False,
    narrow: int = 0,
    wide: bool = False,
    seed: int = 1,
    trace: bool = False,
    quiet_s: float = 2.0,
) -> Figures:
    """Messages at random times on many connections, one subscriber of all: CPU by process, latency, bytes written.

    Args:
        narrow: So many further subscribers, each of one connection.
        wide: All connections at once, each second, instead of at random times.
        trace: Count system calls too, which slows everything: no other figure of such a run means anything.
        quiet_s: So long a silence is the end.
    """
    server = Tool("server", module="sparse")
    gateway.start()
    others: list[Tool] = []
    try:
        port = server.line()["port"]
        options = {"handler": {"name": "count"}} if handler else {}
        opened = open_many(gateway, f"ws://127.0.0.1:{port}/quiet", connections, workers, **options)
        if narrow:
            urls = [f"{gateway.url}/v1/connections/{connection}/events" for connection in opened[:narrow]]
            others.append(Tool("drain", *urls, token=gateway.token, module="sparse"))
            others[0].line()
        count = int(seconds) * len(opened) if wide else 1 << 30
        reader = Tool("subscribe", gateway.url + "/v1/events", count, quiet_s, token=gateway.token, module="sparse")
        reader.line()
        time.sleep(1)
        pids = gateway.pids()
        tracer = Tracer(pids) if trace else None
        before = [cpu_s([pid]) for pid in pids]
        written = written_bytes(pids)
        order = {"rounds": int(seconds)} if wide else {"rate": rate, "seconds": seconds, "seed": seed}
        server.tell(**order)
        sent = server.line()["sent"]
        result = reader.result()
        assert result["seen"] == sent, (result, sent)
        used = [cpu_s([pid]) - past for pid, past in zip(pids, before, strict=True)]
        figures = {
            "cpu_us": sum(used) / sent * 1e6,
            "service_us": used[0] / sent * 1e6,
            "workers_us": sum(used[1:]) / sent * 1e6,
            "written_bytes": (written_bytes(pids) - written) / sent,
            "p50": result["p50_ms"],
            "p99": result["p99_ms"],
            "max": result["max_ms"],
        }
        if tracer is not None:
            figures["calls"] = tracer.stop() / sent
        return figures
    finally:
        for tool in (server, *others):
            tool.close()
        gateway.stop()


class Tracer:
    """Counts the system calls of processes with ``strace -c``."""

    def __init__(self, pids: list[int]) -> None:
        self._file = tempfile.NamedTemporaryFile("r")  # noqa: SIM115 - lives until `stop`
        strace = shutil.which("strace")
        assert strace is not None, "asked for only where strace is there"
        self._process = subprocess.Popen(
            [strace, "-c", "-f", "-q", "-o", self._file.name, *(f"-p{pid}" for pid in pids)], stderr=subprocess.DEVNULL
        )
        time.sleep(1)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        with self._file:
            total = next(line for line in self._file.read().splitlines() if line.endswith("total"))
        return int(total.split()[3])


def idle(count: int, workers: int, watch_s: float, **options: Any) -> Figures:
    """Idle connections: memory of each, and the CPU of their pings."""
    gateway = Mooring(env={"MOORING_LIMITS_MAX_CONNECTIONS": str(count + 10)}).start()
    server = Tool("server")
    try:
        port = server.line()["port"]
        for index in range(workers):
            gateway.request("PUT", f"/v1/workers/w{index}")
        time.sleep(1.5)
        pids = gateway.pids()
        before = [pss_bytes([pid]) for pid in pids]
        begin = time.monotonic()
        open_many(gateway, f"ws://127.0.0.1:{port}/echo", count, workers, pingInterval=30, **options)
        took = time.monotonic() - begin
        time.sleep(3)
        after = [pss_bytes([pid]) for pid in pids]
        each = [(now - past) / (count // 16 * 16) for now, past in zip(after, before, strict=True)]
        used = cpu_s(pids)
        time.sleep(watch_s)
        return {
            "bytes_each": sum(each),
            "service_bytes_each": each[0],
            "cpu_percent": (cpu_s(pids) - used) / watch_s * 100,
            "open_rate": count / took,
        }
    finally:
        gateway.stop()
        server.close()


def journal(count: int) -> Figures:
    """The rate with an empty journal and with `count` events in it, and the replay of all of them."""
    gateway = Mooring().start()
    server = Tool("server")
    try:
        port = server.line()["port"]
        chunk = min(200_000, count)
        rates = []
        done = 0
        while done < count + chunk:
            connection = gateway.open(f"ws://127.0.0.1:{port}/flood?count={chunk}")
            path = f"/v1/connections/{connection}/events"
            subscriber = Tool("subscribe", gateway.url + path, chunk, 1, token=gateway.token)
            subscriber.line()
            gateway.send(connection, "go")
            result = subscriber.result()
            rates.append(chunk / (result["end"] - result["begin"]))
            done += chunk
        replay = Tool("subscribe", gateway.url + "/v1/events?after=start", done, 1, token=gateway.token)
        replay.line()
        result = replay.result()
        return {
            "first_rate": rates[0],
            "last_rate": rates[-1],
            "replay_rate": done / (result["end"] - result["begin"]),
        }
    finally:
        gateway.stop()
        server.close()
