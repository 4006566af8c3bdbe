"""Where the service listens, what it says on standard output, and its access log: the life of the process from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from mooring_api.server.demo import start_demo
from mooring_api.server.listen import Listen, bind
from mooring_service.config import ConfigError
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer


async def test_a_unix_socket_that_somebody_listens_on_is_in_use_and_stays_his(
    start_service: StartService, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    first = await start_service(listen=f"unix:{path}")
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mooring_api", "serve", "--state-dir", str(tmp_path / "second"), "--listen", f"unix:{path}",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(second.communicate(), 60)
    assert second.returncode == 1
    assert b"in use" in errors, errors
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client:
        async with client.get("http://localhost/v1/workers", headers={"Authorization": f"Bearer {first.token}"}) as one:
            assert one.status == 200
    assert await first.stop() == 0
    assert not path.exists(), "it is removed at the end"


async def test_a_unix_socket_that_was_left_behind_is_taken_over_and_survives_a_restart(
    start_service: StartService, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    service = await start_service(listen=f"unix:{path}")
    await service.kill()
    assert path.exists()
    await service.start()
    service.process.send_signal(signal.SIGUSR2)
    line = await asyncio.wait_for(asyncio.to_thread(service.process.stdout.readline), 60)
    assert b"mooring is ready" in line
    assert path.exists()
    assert await service.stop() == 0
    assert not path.exists()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="cannot listen on unix:"):
        bind(Listen(path=str(path)))
    assert path.read_text() == "mine"


async def test_a_socket_file_that_another_has_put_in_its_place_stays(
    start_service: StartService, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    service = await start_service(listen=f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        assert await service.stop() == 0
        assert path.exists()


async def test_an_ordered_stop_refuses_new_connections_at_once(start_service: StartService) -> None:
    service = await start_service("--function", "sleep=time:sleep", env={"MOORING_SUPERVISOR_STOP_TIMEOUT": "600"})
    calling = asyncio.create_task(
        service.call("POST", "/v1/workers/main/calls", None, json={"function": "sleep", "params": [600]})
    )
    await wait_for(lambda: _runs(service))
    service.process.send_signal(signal.SIGTERM)
    await wait_for(lambda: _refuses(service.port))
    assert service.process.poll() is None, "the worker still has its time to end"
    calling.cancel()
    await asyncio.wait({calling})
    service.process.kill()


async def _runs(service: RunningService) -> bool:
    workers = (await service.get("/v1/workers"))["workers"]
    return bool(workers) and workers[0]["running"] is not None


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was in the queue when that was closed
        return True
    writer.close()
    return False


async def test_a_restart_goes_on_when_standard_output_is_a_pipe_that_nobody_reads_any_more(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    record = await service.open(echo.url)
    service.process.stdout.close()
    before = _which(service.state_dir / "address")
    for _ in range(2):
        service.process.send_signal(signal.SIGUSR2)
        before = await wait_for(lambda before=before: _another(service.state_dir / "address", before))
    assert (await service.record(record["id"]))["status"] == "Connected"
    assert await service.stop() == 0, service.log()


def _which(path: Path) -> tuple[int, int] | None:
    """Tell a file from the one that was there before, which may have had the same number."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _another(path: Path, before: tuple[int, int] | None) -> tuple[int, int] | None:
    found = _which(path)
    return None if found == before else found


async def test_it_starts_although_standard_output_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "mooring_api", "serve", "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:0"],
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    try:
        await wait_for((tmp_path / "s" / "address").exists)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(asyncio.to_thread(process.communicate), 60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert b"standard output takes nothing" in errors
    assert b"Traceback" not in errors


async def test_the_access_log_has_a_line_for_each_request_with_its_path_and_without_its_query(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_API_ACCESS_LOG": "true", "MOORING_LOG_LEVEL": "warning"})
    record = await service.open(echo.url)
    for number in range(60):
        await service.get(f"/v1/connections?limit=1&after={number}")
    await service.call("DELETE", f"/v1/connections/{record['id']}?reason=hidden")
    await service.get("/v1/workers/nobody", 404)
    lines = await wait_for(lambda: _access_lines(service, 63))
    assert len(lines) == 63
    assert all(line.startswith("127.0.0.1 ") for line in lines)
    assert sum(line.startswith("127.0.0.1 GET /v1/connections 200 ") for line in lines) == 60
    assert any(line.startswith("127.0.0.1 POST /v1/connections 201 ") for line in lines)
    assert any(line.startswith(f"127.0.0.1 DELETE /v1/connections/{record['id']} 200 ") for line in lines)
    assert any(line.startswith("127.0.0.1 GET /v1/workers/nobody 404 ") for line in lines)
    assert "hidden" not in service.log() and "after=" not in service.log()


def _access_lines(service: RunningService, count: int) -> list[str] | None:
    whole, _, _ = service.log().rpartition("\n")  # the last one may just be written
    lines = [json.loads(line) for line in whole.splitlines()]
    found = [line["event"] for line in lines if line["logger"] == "mooring.access"]
    return found if len(found) >= count else None


async def test_the_demos_echo_server_answers_at_any_path() -> None:
    runner = await start_demo(0)
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(f"http://127.0.0.1:{port}/any/thing?x=1") as websocket:
                await websocket.send_str("hello")
                assert await websocket.receive_str(timeout=60) == "hello"
    finally:
        await runner.cleanup()


async def test_a_demo_whose_port_is_taken_leaves_no_address_and_no_worker(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8481))
        except OSError:
            pass  # somebody else has it, which is as good
        else:
            taken.listen()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mooring_api", "serve", "--demo", "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:0",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ},
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"cannot start" in errors
    assert not (tmp_path / "s" / "address").exists()
