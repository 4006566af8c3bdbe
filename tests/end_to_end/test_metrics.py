"""What is seen from outside: metrics, and the logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from mooring_api.rest.metrics import by_cause
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer, FeedServer


async def metrics(service: RunningService) -> dict[str, float]:
    async with service.client.get("/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True) if sample.labels else ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_codes_of_a_later_version_are_one_series() -> None:
    assert by_cause({301: 1, 9001: 2}, {301: 1, 9002: 3}) == {"worker_died": 2, "other": 5}


async def test_a_dial_that_its_worker_did_not_survive_is_counted_by_its_cause(
    service: RunningService, echo: EchoServer
) -> None:
    opening = asyncio.create_task(service.open(f"{echo.url}slow?s=30", 502))
    await wait_for(lambda: echo.handshakes)
    os.kill((await service.get("/v1/workers/main"))["pid"], signal.SIGKILL)
    await opening
    died = 'mooring_failures_total{"cause": "worker_died", "worker": "main"}'

    async def counted() -> float:  # behind the commit of its end, which the create is answered with
        return (await metrics(service)).get(died, 0.0)

    assert await wait_for(counted) == 1


async def test_metrics_count_what_happened_and_name_no_id_or_url(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(f"{echo.url}push?count=5")
    await service.send(record["id"], "hello")
    await service.events(record["id"], count=7)
    await service.open("ws://127.0.0.1:1/", 502)

    async def counted() -> dict[str, float] | None:
        found = await metrics(service)
        return found if found.get('mooring_failures_total{"cause": "refused", "worker": "main"}') else None

    found = await wait_for(counted)
    main = '{"worker": "main"}'
    assert found['mooring_connections{"status": "Connected", "worker": "main"}'] == 1
    assert found[f"mooring_opens_total{main}"] == 1
    assert found['mooring_messages_total{"direction": "in", "worker": "main"}'] == 6
    assert found['mooring_messages_total{"direction": "out", "worker": "main"}'] == 1
    assert found['mooring_worker_status{"status": "Running", "worker": "main"}'] == 1
    assert found[f"mooring_dial_seconds_count{main}"] == 1
    assert found["mooring_event_latency_seconds_count"] > 0
    assert found["mooring_journal_events"] >= 9
    assert found["mooring_journal_failing"] == 0
    assert found['mooring_queue_limit_bytes{"queue": "outbox"}'] == 64 * 2**20
    assert found['mooring_queue_fill_ratio{"queue": "mailbox", "worker": "main"}'] == 0
    assert not any("127.0.0.1" in name or "ws:" in name for name in found)


async def test_what_is_full_is_seen(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_WORKER_OUTBOX_BYTES": "200000"})
    async with FeedServer(rate=5_000, size=1_000) as feed:
        await service.open(feed.url)
        pid = service.process.pid
        import resource

        wal = service.state_dir / "journal.db-wal"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, resource.RLIM_INFINITY))

        async def full() -> bool:
            found = await metrics(service)
            if not (found["mooring_journal_failing"] and found.get('mooring_pauses_total{"worker": "main"}', 0) > 0):
                return False
            # It may have paused before, for a moment, and said so; how it is now its next answer to a probe says.
            worker = await service.get("/v1/workers/main")
            return worker["paused"] == 1 and worker["outboxBytes"] > 100_000

        await wait_for(full)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def test_a_queue_that_is_full_by_number_and_one_busy_connection_among_many_are_seen(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        "--handler", "stubborn=tests.end_to_end.user_code:Stubborn", "--app-dir", str(Path(__file__).parents[2]),
        env={"MOORING_WORKER_INBOUND_MESSAGES": "10", "MOORING_SUPERVISOR_PROBE_INTERVAL": "0.1"},
    )  # fmt: skip
    await service.open(echo.url, handler={"name": "stubborn"})
    busy = (await service.open(echo.url, handler={"name": "stubborn"}))["id"]

    async def runs() -> bool:
        return (await metrics(service))['mooring_callback_running_seconds{"worker": "main"}'] > 0

    # Its callback has taken the first message, so that all places of its queue are for those behind it.
    await service.send(busy, "first")
    await wait_for(runs)
    for number in range(50):
        await service.send(busy, str(number))

    async def full() -> dict[str, float] | None:
        found = await metrics(service)
        is_full = found.get('mooring_queue_fill_ratio{"queue": "inbound", "worker": "main"}', 0) >= 1
        return found if is_full and found['mooring_paused_connections{"worker": "main"}'] else None

    found = await wait_for(full)
    assert found['mooring_queue_bytes{"queue": "inbound", "worker": "main"}'] < 10_000
    assert found['mooring_callback_running_seconds{"worker": "main"}'] > 0
    assert found['mooring_paused_connections{"worker": "main"}'] == 1
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGKILL)

    async def renewed() -> bool:
        found = await metrics(service)
        return found['mooring_worker_restarts_total{"worker": "main"}'] == 1

    await wait_for(renewed)
    await wait_for(service.is_ready)
    await service.call("DELETE", "/v1/workers/main")

    async def it_has_no_series() -> bool:
        return not [name for name in await metrics(service) if '"main"' in name]

    await wait_for(it_has_no_series, what="who is gone leaves no series")


async def test_log_lines_are_json_with_worker_and_incarnation_off_a_terminal(
    service: RunningService, echo: EchoServer
) -> None:
    await service.open(echo.url)
    # A thread writes them, and may be in the middle of one.
    await wait_for(lambda: "-> Running" in service.log().rpartition("\n")[0])
    lines = [json.loads(line) for line in service.log().rpartition("\n")[0].splitlines()]
    running = next(line for line in lines if "-> Running" in line["event"])
    assert running["worker"] == "main"
    assert len(running["incarnation"]) == 16
    assert running["level"] == "info"
    assert running["timestamp"].endswith("Z")
    assert not any("GET /" in line["event"] for line in lines), "no access log by default"


async def test_a_worker_that_prints_without_end_fills_no_disk_also_without_a_service(
    start_service: StartService,
) -> None:
    service = await start_service(
        "--function", "flood=tests.end_to_end.user_code:flood", "--app-dir", str(Path(__file__).parents[2]),
        env={"MOORING_WORKER_LOG_MAX_BYTES": "100000", "MOORING_WORKER_LOG_FILES": "2"},
    )  # fmt: skip
    logs = service.state_dir / "logs"
    await service.call("POST", "/v1/workers/main/calls", json={"function": "flood"})
    await wait_for((logs / "main.log.2").exists)
    (logs / "main.log").rename(logs / "moved")
    await wait_for((logs / "main.log").exists)
    (logs / "moved").unlink()
    for _ in range(2):
        newest = _changed_at(logs / "main.log.1")
        await wait_for(lambda newest=newest: _changed_at(logs / "main.log.1") not in (None, newest))
        await wait_for(lambda: set(_sizes(logs)) == {"main.log", "main.log.1", "main.log.2"})
        sizes = _sizes(logs)
        assert max(sizes.get("main.log.1", 0), sizes.get("main.log.2", 0)) <= 100_000 + 1
        await wait_for(lambda: _sizes(logs)["main.log"] < 3_000_000, what="no more than what came since the last look")
        await service.kill()  # the second time it is gone already: the worker is alone


def _sizes(folder: Path) -> dict[str, int]:
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the worker is just moving it
            found[path.name] = path.stat().st_size
    return found


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # the worker is just moving it
        return None
