"""What operators do: upgrade under load, reload, back up and move, watch; the service manager's protocol."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mooring_api.rest.metrics import by_cause
from mooring_api.server import systemd
from tests.conftest import RunningService, StartService, wait_for
from tests.follower import Follower
from tests.servers import EchoServer, FeedServer


async def mooring(service: RunningService, *arguments: str, status: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mooring_api", "--state-dir", str(service.state_dir), *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, errors.decode()
    assert b"Traceback" not in errors
    return (out + errors).decode()


@pytest.mark.alone
async def test_an_upgrade_under_load_closes_nothing_and_loses_nothing(start_service: StartService) -> None:
    service = await start_service()
    async with FeedServer(rate=10) as feed, Follower(service) as follower:
        numbers = iter(range(200))

        async def some() -> None:
            for n in numbers:
                await service.open(f"{feed.url}{n}", worker=f"w{n % 4}")

        await asyncio.gather(*(some() for _ in range(16)))
        away: list[float] = []

        async def watch() -> None:
            last = time.monotonic()
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                    writer.write(
                        f"GET /v1/workers HTTP/1.0\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}\r\n\r\n".encode()
                    )
                    answer = await reader.read(20)
                    writer.close()
                    if b" 200 " in answer:
                        away.append(time.monotonic() - last)
                        last = time.monotonic()
                except OSError:
                    pass
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        pids = sorted(service.worker_pids())
        for _ in range(2):
            assert "restarted in" in await mooring(service, "restart")
            await asyncio.sleep(0.5)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        print(f"longest time without the API: {max(away):.2f} s")
        assert max(away) < 2
        assert sorted(service.worker_pids()) == pids, "the workers are the same"
        assert service.process.poll() is None, "the pid is the same"
        await feed.stop_sending()
        await wait_for(lambda: sum(follower.ledger.numbers.values()) == sum(feed.sent.values()), 15)
        assert feed.ends == []
        assert follower.ledger.gaps == 0


async def test_a_restart_into_a_configuration_that_cannot_be_used_is_refused_and_the_service_goes_on(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("[limits]\nmax_workers = 5\n")
    service = await start_service("--config", str(config))
    record = await service.open(echo.url)
    config.write_text("[limit]\nmax_workers = 5\n")
    told = await mooring(service, "restart", status=1)
    assert "the old service goes on" in told
    assert "unknown table [limit]; did you mean limits?" in told
    assert (await service.record(record["id"]))["status"] == "Connected"
    assert "the restart is refused" in service.log()
    config.write_text("[limits]\nmax_workers = 6\n")
    assert "restarted in" in await mooring(service, "restart")
    assert (await service.record(record["id"]))["status"] == "Connected"


async def test_draining_renews_a_worker_once_its_connections_have_ended(
    service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(echo.url)
    pid = (await service.get("/v1/workers/main"))["pid"]
    await mooring(service, "workers", "drain", "main")
    assert (await service.open(echo.url, 409))["type"] == "urn:mooring:problem:worker-busy"
    assert (await service.get("/v1/workers/main"))["draining"] is True
    await service.call("DELETE", f"/v1/connections/{record['id']}")
    await wait_for(lambda: _renewed(service, pid))
    await service.open(echo.url)


async def _renewed(service: RunningService, pid: int) -> bool:
    workers = (await service.get("/v1/workers"))["workers"]
    return bool(workers) and workers[0]["status"] == "Running" and workers[0]["pid"] != pid


async def test_sighup_reads_tokens_egress_and_limits_again_and_names_the_rest(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("[limits]\nmax_connections = 100\n")
    service = await start_service("--config", str(config))
    record = await service.open(echo.url)
    config.write_text(
        "[limits]\nmax_connections = 1\nmax_body_bytes = 1\n[egress]\ndeny = ['127.0.0.2']\n[journal]\nmax_events = 5\n"
    )
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: "were read again" in service.log())
    assert "[journal] has changed, but needs a restart" in service.log()
    assert "[limits.max_body_bytes] has changed, but needs a restart" in service.log()
    await service.send(record["id"], "more than a byte")
    assert (await service.open(echo.url, 429))["setting"] == "limits.max_connections"
    await service.call("DELETE", f"/v1/connections/{record['id']}")
    problem = await service.open(f"ws://127.0.0.2:{echo.port}/", 403)
    assert problem["type"] == "urn:mooring:problem:address-refused"
    config.write_text("[limits]\nmax_conections = 1\n")
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: "nothing was changed" in service.log())
    await service.open(echo.url)


async def test_backup_and_restore_go_on_under_a_new_epoch(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start_service()
    record = await service.open(f"{echo.url}push?count=20")
    await service.events(record["id"], count=21)
    copy = tmp_path / "copy.db"
    assert "bytes" in await mooring(service, "backup", str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "File exists" in await mooring(service, "backup", str(copy), status=1)
    old = (await service.record(record["id"]))["lastEventId"]
    other = RunningService(service.state_dir.parent / "other")
    await mooring(other, "restore", str(copy))
    assert "exists" in await mooring(other, "restore", str(copy), status=1)
    moved = await start_service(name="other")
    events = await moved.events(record["id"], until="onTerminate")
    assert len(events) == 22
    assert events[-1]["event"]["code"] == 1006
    assert events[0]["id"].split("-")[0] != old.split("-")[0]
    page = await moved.get(f"/v1/events?after={old}&limit=1")
    assert page["events"][0]["kind"] == "gap"
    again = await moved.open(echo.url)
    assert again["id"] > record["id"], "ids are not used again"
    assert "in use by process" in await mooring(service, "restore", str(copy), status=1)


class FakeManager:
    """A notify socket, as systemd has one."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.said: list[str] = []

    def heard(self, text: str) -> bool:
        while True:
            try:
                self.said.append(self.sock.recv(4096).decode())
            except BlockingIOError:
                return any(text in said for said in self.said)


async def test_readiness_watchdog_reload_and_stop_are_told_to_the_manager(
    start_service: StartService, tmp_path: Path
) -> None:
    manager = FakeManager(tmp_path / "notify")
    service = await start_service(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"})
    await wait_for(lambda: manager.heard("READY=1"))
    await wait_for(lambda: manager.heard("WATCHDOG=1"))
    manager.said.clear()
    restarting = asyncio.create_task(mooring(service, "restart"))
    await wait_for(lambda: manager.heard("RELOADING=1"))
    await wait_for(lambda: manager.heard("READY=1"))
    await restarting
    assert await service.stop() == 0
    assert manager.heard("STOPPING=1")
    manager.sock.close()


async def test_a_manager_that_does_not_read_holds_up_nothing(start_service: StartService, tmp_path: Path) -> None:
    manager = FakeManager(tmp_path / "notify")
    service = await start_service(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000"})
    for _ in range(20):  # many more pings than the manager's queue takes
        await asyncio.sleep(0.02)
        await asyncio.wait_for(service.get("/v1/workers"), 1)
    assert await service.stop() == 0
    manager.sock.close()


async def test_a_manager_that_is_away_for_a_moment_hears_the_watchdog_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    watchdog = asyncio.create_task(systemd.watchdog())
    await asyncio.sleep(0)
    manager = FakeManager(tmp_path / "notify")  # only now: what was said before has failed
    await wait_for(lambda: manager.heard("WATCHDOG=1"))
    watchdog.cancel()
    manager.sock.close()


def serve_on(sock: socket.socket, state_dir: Path) -> subprocess.Popen[str]:
    """Start a service as a manager does that holds its socket."""
    program = (
        "import os, sys\n"
        f"os.dup2({sock.fileno()}, 3); os.set_inheritable(3, True)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'mooring_api', *sys.argv[1:]])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--state-dir", str(state_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[sock.fileno()], text=True,
    )  # fmt: skip


async def test_a_socket_of_the_manager_is_served(tmp_path: Path) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    port = sock.getsockname()[1]
    process = serve_on(sock, tmp_path / "s")
    try:
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 10)
        assert f"http://127.0.0.1:{port}" in line
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        assert b" 200 " in await reader.read()
        writer.close()
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)
        sock.close()


async def test_a_socket_of_the_manager_off_loopback_needs_tls_or_the_flag_too(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        process = serve_on(sock, tmp_path / "s")
        try:
            _, errors = await asyncio.wait_for(asyncio.to_thread(process.communicate), 10)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "0.0.0.0 is not loopback" in errors


async def test_whoever_reads_the_address_while_the_service_starts_finds_a_whole_one(
    start_service: StartService,
) -> None:
    service = await start_service()
    with (service.state_dir / "address").open() as reading:
        await service.restart_after_kill()
        now = (service.state_dir / "address").stat()
        assert os.fstat(reading.fileno()).st_ino != now.st_ino, "it was replaced, not written over"
        assert reading.read().startswith("http://")


async def test_a_restart_listens_where_the_configuration_says_now(start_service: StartService, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = free.getsockname()[1]
    config = tmp_path / "mooring.toml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config.write_text(f'[api]\nlisten = "127.0.0.1:{free.getsockname()[1]}"\n')
    service = await start_service("--config", str(config), listen="")
    await mooring(service, "restart")
    async with service.client.get("/healthz") as response:
        assert response.status == 200, "nothing has changed yet"
    config.write_text(f'[api]\nlisten = "127.0.0.1:{other}"\n')
    await mooring(service, "restart")
    assert (service.state_dir / "address").read_text() == f"http://127.0.0.1:{other}\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", other)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{other}\r\nConnection: close\r\n\r\n".encode())
    assert b" 200 " in await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.port)


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
    assert (await metrics(service))['mooring_failures_total{"cause": "worker_died", "worker": "main"}'] == 1


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
            return found["mooring_journal_failing"] == 1 and found.get('mooring_pauses_total{"worker": "main"}', 0) > 0

        await wait_for(full, 15)
        worker = await service.get("/v1/workers/main")
        assert worker["paused"] == 1
        assert worker["outboxBytes"] > 100_000
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def test_a_queue_that_is_full_by_number_and_one_busy_connection_among_many_are_seen(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        "--handler", "stubborn=tests.end_to_end.user_code:Stubborn", "--app-dir", str(Path(__file__).parents[2]),
        env={"MOORING_WORKER_INBOUND_MESSAGES": "10", "MOORING_SUPERVISOR_PROBE_INTERVAL": "0.1"},
    )  # fmt: skip
    for path in ("", "push?count=50"):
        await service.open(echo.url + path, handler={"name": "stubborn"})

    async def full() -> bool:
        found = await metrics(service)
        return found.get('mooring_queue_fill_ratio{"queue": "inbound", "worker": "main"}', 0) >= 1

    await wait_for(full)
    found = await metrics(service)
    assert found['mooring_queue_bytes{"queue": "inbound", "worker": "main"}'] < 10_000
    assert found['mooring_callback_running_seconds{"worker": "main"}'] > 0
    assert found['mooring_paused_connections{"worker": "main"}'] == 1
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGKILL)

    async def renewed() -> bool:
        found = await metrics(service)
        return found['mooring_worker_restarts_total{"worker": "main"}'] == 1

    await wait_for(renewed)
    await wait_for(lambda: _ready(service))
    await service.call("DELETE", "/v1/workers/main")
    assert not [name for name in await metrics(service) if '"main"' in name], "who is gone leaves no series"


async def test_log_lines_are_json_with_worker_and_incarnation_off_a_terminal(
    service: RunningService, echo: EchoServer
) -> None:
    await service.open(echo.url)
    lines = [json.loads(line) for line in service.log().splitlines()]
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
        sizes = {path.name: path.stat().st_size for path in logs.iterdir()}
        assert set(sizes) == {"main.log", "main.log.1", "main.log.2"}
        assert max(sizes["main.log.1"], sizes["main.log.2"]) <= 100_000 + 1
        assert sizes["main.log"] < 3_000_000, "what came since the last look"
        await service.kill()  # the second time it is gone already: the worker is alone


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # the worker is just moving it
        return None


async def test_ready_names_what_is_missing(start_service: StartService) -> None:
    service = await start_service()
    await service.call("PUT", "/v1/workers/main", 201)
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    await service.kill()
    await service.start()
    async with service.client.get("/readyz") as response:
        answer: Any = await response.json()
        assert response.status == 503
        assert answer["reasons"] == ["adopting: main"]
        assert response.headers["Retry-After"]
    async with service.client.get("/readyz", headers={"Authorization": ""}) as response:
        assert await response.json() == {"ready": False}
    os.kill(pid, signal.SIGCONT)
    await wait_for(lambda: _ready(service))


async def _ready(service: RunningService) -> bool:
    async with service.client.get("/readyz") as response:
        return response.status == 200
