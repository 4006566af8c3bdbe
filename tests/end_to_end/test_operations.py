"""What operators do: upgrade under load, reload, back up and move."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.end_to_end.figures import Watch
from tests.follower import Follower
from tests.proxies import free_ports
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
            last = Watch(service)
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                    writer.write(
                        f"GET /v1/workers HTTP/1.0\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}\r\n\r\n".encode()
                    )
                    answer = await reader.read(20)
                    writer.close()
                    if b" 200 " in answer:
                        away.append(last.took_s())
                        last = Watch(service)
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
        await wait_for(lambda: sum(follower.ledger.numbers.values()) == sum(feed.sent.values()))
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
    await wait_for(lambda: "the restart is refused" in service.log())
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
    await wait_for(lambda: "[journal] has changed, but needs a restart" in service.log())
    await wait_for(lambda: "[limits.max_body_bytes] has changed, but needs a restart" in service.log())
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
    first, other = free_ports(2)
    config = tmp_path / "mooring.toml"
    config.write_text(f'[api]\nlisten = "127.0.0.1:{first}"\n')
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
    await wait_for(service.is_ready)


@pytest.mark.parametrize("how", ["a restart in order", "a crash"])
async def test_what_was_asked_of_a_worker_that_restarts_is_done_once_over(
    start_service: StartService, how: str
) -> None:
    module = "tests.end_to_end.user_code"
    functions = [f"--function={name}={module}:{name}" for name in ("tell", "remember", "get_seen")]
    service = await start_service(
        *functions, "--app-dir", str(ROOT), env={"MOORING_SUPERVISOR_RESTART_DELAY": "4"}
    )  # fmt: skip
    for name in ("main", "w0"):
        await service.call("PUT", f"/v1/workers/{name}", 201)
    pid = (await service.get("/v1/workers/w0"))["pid"]
    os.kill(pid, signal.SIGKILL)

    async def status() -> str:
        return (await service.get("/v1/workers/w0"))["status"]

    async def restarts() -> bool:  # for four seconds, which a busy machine may miss
        return (await service.get("/v1/workers/w0"))["pid"] != pid

    async def running() -> bool:
        return await status() == "Running"

    await wait_for(restarts)
    asked = {"function": "tell", "params": ["w0", 1, 2, 3]}
    assert await service.call("POST", "/v1/workers/main/calls", json=asked) == {"result": "told"}
    if how == "a crash":
        await service.restart_after_kill()
    else:
        assert "restarted in" in await mooring(service, "restart")
    assert await status() in ("Restarting", "Starting", "Running"), "it is still there"
    await wait_for(running)

    async def seen() -> list[int]:
        return (await service.call("POST", "/v1/workers/w0/calls", json={"function": "get_seen"}))["result"]

    async def all_seen() -> bool:
        return len(await seen()) >= 3

    await wait_for(all_seen)
    await asyncio.sleep(0.2)
    assert await seen() == [1, 2, 3]
    assert (await service.get("/v1/events?after=start&kind=callbackError"))["events"] == []


async def test_backups_that_are_hung_up_on_or_die_with_the_service_leave_nothing(
    service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(f"{echo.url}push?count=40&size=1000000")
    await service.events(record["id"], count=41)

    def left() -> list[str]:
        return [path.name for path in service.state_dir.glob("backup-*")]

    request = (
        f"POST /v1/backup HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()

    async def begin() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request)
        await writer.drain()
        return writer

    for attempt in range(25):
        writer = await begin()
        await asyncio.sleep(attempt / 2000)
        writer.transport.abort()
    await asyncio.sleep(0.2)  # the last one may only be beginning
    await wait_for(lambda: not left())
    writer = await begin()
    await wait_for(left)
    await service.restart_after_kill()
    writer.close()
    assert left() == []
