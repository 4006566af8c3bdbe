"""Every case of the Autobahn Testsuite through REST: one connection each, with an echo handler.

python -m tests.conformance WSTEST [PREFIX …]      only cases whose id begins with a prefix
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from tests.conftest import RunningService

FOLDER = Path(__file__).parent
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
CASE_TIMEOUT_S = 120
START_TIMEOUT_S = 20
VERBOSE = "-v" in sys.argv
MAX_MESSAGE_SIZE = 32 * 2**20


async def fetch(session: aiohttp.ClientSession, url: str) -> str:
    """Return the one message that an address of the fuzzing server sends."""
    async with session.ws_connect(url, max_msg_size=0) as socket:
        message = await socket.receive(timeout=10)
    return message.data if isinstance(message.data, str) else ""


def free_port() -> int:
    """Return a port that nobody listens on: another run on this machine has a fuzzing server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def case_count(session: aiohttp.ClientSession, base: str, server: subprocess.Popen[bytes]) -> int:
    """Wait for the fuzzing server; return how many cases it has."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return int(await fetch(session, f"{base}/getCaseCount"))
        except (aiohttp.ClientError, ValueError):
            await asyncio.sleep(0.1)
    raise SystemExit(f"conformance: the fuzzing server did not start (exit status {server.poll()})")


async def run(wstest: str, prefixes: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="mooring-conformance-") as folder:
        port = free_port()
        spec = {
            "url": f"ws://127.0.0.1:{port}", "outdir": f"{folder}/reports", "cases": [f"{p}*" for p in prefixes] or ["*"],
            "exclude-cases": [], "exclude-agent-cases": {},
        }  # fmt: skip
        Path(folder, "spec.json").write_text(json.dumps(spec))
        server = subprocess.Popen(
            [wstest, "-m", "fuzzingserver", "--webport", "0", "-s", f"{folder}/spec.json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        service = RunningService(
            Path(folder, "state"), "--app-dir", str(FOLDER), "--handler", "echo=echo_handler:Echo",
            env={"MOORING_WORKER_INBOUND_BYTES": str(128 * 2**20), "MOORING_WORKER_OUTBOUND_BYTES": str(128 * 2**20)},
        )  # fmt: skip
        try:
            await service.start()
            base = f"ws://127.0.0.1:{port}"
            async with aiohttp.ClientSession() as session:
                count = await case_count(session, base, server)
                begun = time.monotonic()
                for number in range(1, count + 1):
                    info = json.loads(await fetch(session, f"{base}/getCaseInfo?case={number}"))
                    await one_case(service, f"{base}/runCase?case={number}&agent=mooring", info)
                    if number % 50 == 0:
                        print(f"{number} of {count}, {time.monotonic() - begun:.0f} s", flush=True)
                async with session.ws_connect(f"{base}/updateReports?agent=mooring") as socket:
                    await socket.receive(timeout=30)
            worker = await service.get("/v1/workers/main")
            if VERBOSE:
                for page in (await service.get("/v1/events?after=start&kind=onError,callbackError,onTerminate"))[
                    "events"
                ]:
                    print(page["connection"], page["kind"], str(page["event"])[:300])
            results = json.loads(Path(folder, "reports", "index.json").read_text())["mooring"]
        finally:
            await service.clean_up()
            server.kill()
            server.wait()
    return report(results, count, time.monotonic() - begun, worker)


async def one_case(service: RunningService, url: str, info: dict[str, str]) -> None:
    """Open the case's connection, and wait for its end."""
    case, text = info["id"], info["description"].lower()
    if VERBOSE:
        print(case, info["description"])
    data_type = "blob" if "binary" in text or case.startswith(("12.2.", "12.3.", "12.5.")) else "text"
    body = {
        "url": url, "handler": {"name": "echo"}, "dataType": data_type, "compress": case.startswith(("12.", "13.")),
        "maxMessageSize": MAX_MESSAGE_SIZE, "connectTimeout": 30, "sendTimeout": 60,
    }  # fmt: skip
    async with service.client.post("/v1/connections", json=body) as response:
        record = await response.json()
        number = record.get("id") or record.get("connection")
        assert number, record
    headers = {"Accept": "application/x-ndjson"}
    timeout = aiohttp.ClientTimeout(total=CASE_TIMEOUT_S)
    path = f"/v1/connections/{number}/events?kind=onTerminate"
    try:
        async with service.client.get(path, headers=headers, timeout=timeout) as response:
            await response.read()
    except TimeoutError:
        print(f"  {case}: no end within {CASE_TIMEOUT_S} s")
        await service.call("DELETE", f"/v1/connections/{number}", None)


def report(results: dict[str, dict[str, str]], count: int, took_s: float, worker: dict[str, object]) -> int:
    """Print what came out; 0 when all of it is good."""
    print(f"{count} cases in {took_s:.0f} s: {dict(Counter(result['behavior'] for result in results.values()))}")
    print(f"close behaviour: {dict(Counter(result['behaviorClose'] for result in results.values()))}")
    for behaviour in sorted({result["behavior"] for result in results.values()} - {"OK"}):
        cases = [case for case, result in results.items() if result["behavior"] == behaviour]
        print(f"{behaviour}: {' '.join(sorted(cases, key=lambda case: [int(part) for part in case.split('.')]))}")
    print(f"worker restarts: {worker['restarts']}")
    bad = {case: result for case, result in results.items() if {result["behavior"], result["behaviorClose"]} - GOOD}
    for case, result in bad.items():
        print(f"  {case}: {result['behavior']}, close {result['behaviorClose']}")
    return int(bool(bad) or len(results) != count or bool(worker["restarts"]))


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1], [prefix for prefix in sys.argv[2:] if prefix != "-v"])))
