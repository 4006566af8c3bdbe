"""The gateways that are compared: ours and three that a competent user would write. One face for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
ROOT = BENCH.parents[1]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that the processes have used, in user and kernel mode."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def written_bytes(pids: list[int]) -> int:
    """Bytes that the processes have caused to be written to disk."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                total += int(line.split()[1])
    return total


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size of the processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


class Tool:
    """One of `tools.py` (or of another `module` of this folder), as a process."""

    def __init__(self, *arguments: object, token: str = "", module: str = "tools") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "BENCH_TOKEN": token}, text=True,
        )  # fmt: skip

    def tell(self, **order: object) -> None:
        """Write one line of JSON to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"{self.process.args}: ended with {self.process.wait()}")
        return json.loads(text)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def result(self) -> dict[str, Any]:
        found = self.line()
        self.close()
        return found


class Gateway:
    """A gateway under test."""

    name = ""
    token = ""
    url = ""
    process: subprocess.Popen[str]

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> Gateway:
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.wait_until_it_listens()
        return self

    def wait_until_it_listens(self) -> None:
        import socket

        host, port = self.url.removeprefix("http://").split(":")
        for _ in range(200):
            try:
                socket.create_connection((host, int(port))).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def pids(self) -> list[int]:
        return [self.process.pid]

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        request = urllib.request.Request(self.url + path, data=body or None, method=method)
        request.add_header("Content-Type", kind)
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def open(self, url: str, **options: Any) -> int:
        return self.request("POST", "/v1/connections", json.dumps({"url": url, **options}).encode())["id"]

    def send(self, connection: int, text: str) -> None:
        self.request("POST", f"/v1/connections/{connection}/messages", text.encode(), "text/plain")


class Aiohttp(Gateway):
    name = "aiohttp"

    def command(self) -> list[str]:
        return [sys.executable, str(BENCH / "peers" / "aiohttp_gateway.py"), "0"]


class AiohttpBatched(Aiohttp):
    name = "aiohttp, batched"

    def command(self) -> list[str]:
        return [*super().command(), "batched"]


class FastApi(Gateway):
    name = "fastapi"

    def command(self) -> list[str]:
        return [sys.executable, str(BENCH / "peers" / "fastapi_gateway.py"), "0"]


class Node(Gateway):
    name = "node"

    def command(self) -> list[str]:
        return ["node", str(BENCH / "peers" / "node" / "gateway.js"), "0"]


class NodeBatched(Node):
    name = "node, batched"

    def command(self) -> list[str]:
        return [*super().command(), "batched"]


class Mooring(Gateway):
    name = "mooring"

    def __init__(self, *options: str, env: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mooring-bench-")
        self.state_dir = Path(self._folder.name) / "state"
        self._options = options
        self._env = env or {}

    def start(self) -> Mooring:
        command = [
            sys.executable,
            "-m",
            "mooring_api",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            str(self.state_dir),
        ]
        command += ["--app-dir", str(BENCH), "--handler", "count=handler:Count", *self._options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **self._env}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.split(" at ", 1)[1].split(" ", 1)[0]
        self.token = (self.state_dir / "token").read_text().strip()
        return self

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.request("GET", "/v1/workers")["workers"] if worker["pid"]]

    def pids(self) -> list[int]:
        return [self.process.pid, *self.worker_pids()]
