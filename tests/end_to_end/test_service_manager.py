"""The service manager's protocol: readiness, watchdog, sockets."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_api.server import systemd
from tests.conftest import RunningService, StartService, wait_for


async def mooring(service: RunningService, *arguments: str, status: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mooring_api", "--state-dir", str(service.state_dir), *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, errors.decode()
    assert b"Traceback" not in errors
    return (out + errors).decode()


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


@pytest.fixture
def notify() -> Iterator[Path]:
    """The path of a socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        yield Path(folder) / "notify"


async def test_readiness_watchdog_reload_and_stop_are_told_to_the_manager(
    start_service: StartService, notify: Path
) -> None:
    manager = FakeManager(notify)
    service = await start_service(env={"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "2000000"})
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


async def test_a_manager_that_does_not_read_holds_up_nothing(start_service: StartService, notify: Path) -> None:
    manager = FakeManager(notify)
    service = await start_service(env={"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "2000"})
    for _ in range(20):  # many more pings than the manager's queue takes
        await asyncio.sleep(0.02)
        await asyncio.wait_for(service.get("/v1/workers"), 60)
    assert await service.stop() == 0
    manager.sock.close()


async def test_a_manager_that_is_away_for_a_moment_hears_the_watchdog_again(
    notify: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(notify))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    watchdog = asyncio.create_task(systemd.watchdog())
    await asyncio.sleep(0)
    manager = FakeManager(notify)  # only now: what was said before has failed
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
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
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
            _, errors = await asyncio.wait_for(asyncio.to_thread(process.communicate), 60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "0.0.0.0 is not loopback" in errors
