"""What starting costs: a worker, beside a plain interpreter that imports the libraries; the command line, beside one that could do it."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.gateways import Mooring, pss_bytes

PLAIN_WORKER = "import aiohttp, uvloop, msgspec"
PLAIN_LS = "import json, http.client"
WORKERS = 64


def child_cpu_s() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(*command: str, env: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a command to its end; return how long it took and the CPU that it used, in seconds."""
    begin, used = time.monotonic(), child_cpu_s()
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
    return time.monotonic() - begin, child_cpu_s() - used


def starts(rounds: int) -> dict[str, float]:
    """Starts of workers and of a plain interpreter in turns; what one idle worker of 64 takes; then ``mooring ls`` and a plain one in turns."""
    gateway = Mooring().start()
    mooring = str(Path(sys.executable).with_name("mooring"))
    try:
        ours, plain = [], []
        for number in range(WORKERS):
            begin = time.monotonic()
            gateway.request("PUT", f"/v1/workers/w{number}")
            ours.append(time.monotonic() - begin)
            if number < rounds:
                plain.append(run(sys.executable, "-c", PLAIN_WORKER)[0])
        time.sleep(2)
        pss = pss_bytes(gateway.worker_pids()) / WORKERS
        place = {"MOORING_STATE_DIR": str(gateway.state_dir)}
        ls = [(run(mooring, "ls", env=place)[1], run(sys.executable, "-c", PLAIN_LS)[1]) for _ in range(2 * rounds)]
        return {
            "worker_ms": statistics.median(ours[:rounds]) * 1e3,
            "plain_ms": statistics.median(plain) * 1e3,
            "pss_bytes": pss,
            "ls_ms": statistics.median(one for one, _ in ls) * 1e3,
            "plain_ls_ms": statistics.median(other for _, other in ls) * 1e3,
            "ls_ratio": statistics.median(one / other for one, other in ls),
        }
    finally:
        gateway.stop()


def section(report: Any, quick: bool) -> None:
    """Measure the starts."""
    found = starts(5 if quick else 15)
    report.figures["starts"] = found
    report.add(
        "worker start to Running",
        f"{found['worker_ms']:.0f} ms; {found['pss_bytes'] / 2**20:.1f} MiB PSS each of {WORKERS} idle ones",
        f"{found['worker_ms'] / found['plain_ms']:.2f} × a plain start with the libraries ({found['plain_ms']:.0f} ms)",
        "0.15 ×, 9 MiB",
    )
    report.add(
        "mooring ls into a pipe",
        f"{found['ls_ms']:.0f} ms CPU",
        f'{found["ls_ratio"]:.2f} × python -c "{PLAIN_LS}" ({found["plain_ls_ms"]:.0f} ms)',
        "3 ×",
    )
