"""Servers of the engine on loopback: each its own process, store and port; they can be killed, stopped and started again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.proxies import free_ports

PROGRAM = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
READY_S = 120.0


class EngineServers:
    """`count` servers, of which each knows the others. With one there is no cluster of them.

    `extra` is put behind the configuration of each; `jetstream=False` leaves the store out.
    """

    def __init__(self, root: Path, count: int = 3, *, extra: str = "", jetstream: bool = True) -> None:
        self.root, self.count = root, count
        root.mkdir(parents=True)
        ports = free_ports(3 * count)
        self.ports, self.routes, self.monitors = ports[::3], ports[1::3], ports[2::3]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        for index in range(count):
            (root / f"{index}.conf").write_text(self._configuration(index, extra, jetstream))

    def _configuration(self, index: int, extra: str, jetstream: bool) -> str:
        store = (
            f'jetstream {{ store_dir: "{self.root / str(index)}", max_mem: 64MB, max_file: 200GB }}\n'
            if jetstream
            else ""
        )
        routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in self.routes)
        cluster = f'cluster {{ name: C, listen: "127.0.0.1:{self.routes[index]}", routes: [{routes}] }}\n'
        return (
            f'server_name: s{index}\nlisten: "127.0.0.1:{self.ports[index]}"\nhttp: "127.0.0.1:{self.monitors[index]}"\n'
            f"{store}{cluster if self.count > 1 else ''}{extra}\n"
        )

    def start(self, index: int) -> None:
        with (self.root / f"{index}.log").open("ab") as out:
            command = [PROGRAM, "-c", str(self.root / f"{index}.conf")]
            self.processes[index] = subprocess.Popen(command, stdout=out, stderr=out)

    def start_all(self) -> EngineServers:
        """Start those that do not run, and wake those that were stopped; wait until all are ready."""
        for index, process in enumerate(self.processes):
            if process is None or process.poll() is not None:
                self.start(index)
            else:
                process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + READY_S
        for port in self.monitors:
            while not self._healthy(port):
                assert time.monotonic() < deadline, f"a server is not ready: {self.logs()}"
                time.sleep(0.05)
        return self

    def _healthy(self, port: int) -> bool:
        """Is it up, and (in a cluster) does it know who leads, and does that one see all others?"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz?js-enabled-only=true", timeout=5) as answer:
                if answer.status != 200:
                    return False
            if self.count == 1:
                return True
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/jsz", timeout=5) as answer:
                meta = json.load(answer).get("meta_cluster", {})
        except (urllib.error.URLError, OSError):
            return False
        return bool(meta.get("leader")) and not any(one.get("offline") for one in meta.get("replicas") or [])

    def kill(self, index: int, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes[index]
        assert process is not None
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait()
            self.processes[index] = None

    def stop_all(self) -> None:
        for index, process in enumerate(self.processes):
            if process is not None:
                process.kill()
                process.wait()
                self.processes[index] = None

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self.ports]

    def leader(self, stream: str) -> int | None:
        """Return which server leads a stream."""
        for index, port in enumerate(self.monitors):
            if self.processes[index] is None:
                continue
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/jsz?streams=true&accounts=true", timeout=2
                ) as answer:
                    told = json.load(answer)
            except (urllib.error.URLError, OSError):
                continue
            for account in told.get("account_details", []):
                for one in account.get("stream_detail", []):
                    if one["name"] == stream and one.get("cluster", {}).get("leader"):
                        return int(one["cluster"]["leader"][1:])
        return None

    def logs(self) -> str:
        return "\n".join(f"---- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.root.glob("*.log")))
