"""`mooring check` says yes where the service starts, and no where it does not; a restart asks the same before it is done."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command_line import mooring
from tests.conftest import RunningService, StartService

MOORING = [sys.executable, "-m", "mooring_api"]


class Case(NamedTuple):
    """A place that `prepare` makes below a folder; it may return further options."""

    name: str
    starts: bool
    prepare: Callable[[Path], list[str] | None] = lambda folder: None
    options: tuple[str, ...] = ()
    env: dict[str, str] = {}
    state: str = "state"


def _file(name: str, text: str = "", mode: int = 0o600) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    return prepare


def _token_that_is_a_link(folder: Path) -> None:
    _file("elsewhere", "token\n")(folder)
    (folder / "state").mkdir(mode=0o700)
    (folder / "state" / "token").symlink_to(folder / "elsewhere")


def _links_in_a_circle(folder: Path) -> None:
    (folder / "state").symlink_to(folder / "other")
    (folder / "other").symlink_to(folder / "state")


def _later_journal(folder: Path) -> None:
    (folder / "state").mkdir(mode=0o700)
    with sqlite3.connect(folder / "state" / "journal.db") as database:
        database.execute("CREATE TABLE meta (x)")
        database.execute("PRAGMA user_version = 9999")
    database.close()


def _taken_port(folder: Path) -> list[str]:
    taken = socket.create_server(("127.0.0.1", 0))
    _OPEN.append(taken)
    return ["--listen", f"127.0.0.1:{taken.getsockname()[1]}"]


def _taken_path(folder: Path) -> list[str]:
    taken = socket.socket(socket.AF_UNIX)
    taken.bind(str(folder / "sock"))
    taken.listen()
    _OPEN.append(taken)
    return ["--listen", f"unix:{folder}/sock"]


def _stale_path(folder: Path) -> list[str]:
    options = _taken_path(folder)
    _OPEN.pop().close()
    return options


def _path_of_a_file(folder: Path) -> list[str]:
    (folder / "sock").touch()
    return ["--listen", f"unix:{folder}/sock"]


_OPEN: list[socket.socket] = []

CASES = [
    Case("nothing is there yet", True, state="deep/er/state"),
    Case("a file is where the directory would be", False, _file("state")),
    Case("a file is above it", False, _file("deep"), state="deep/er"),
    Case("links in a circle", False, _links_in_a_circle),
    Case("a path that is too long for the workers' socket", False, state="x" * 120),
    Case("a token that others can read", False, _file("state/token", "abc\n", 0o644)),
    Case("a token that others can read, which nobody asks for", True, _file("state/token", "abc\n", 0o644), ("--no-auth",)),
    Case("a token that is a link", False, _token_that_is_a_link),
    Case("an empty token", False, _file("state/token")),
    Case("a journal of a later mooring", False, _later_journal),
    Case("the same, in memory", True, _later_journal, env={"MOORING_JOURNAL_STORE": "memory"}),
    Case("a journal that is none", True, _file("state/journal.db", "not a database, but long enough to look like one")),
    Case("a port that is taken", False, _taken_port),
    Case("a socket that somebody listens on", False, _taken_path),
    Case("a socket that was left behind", True, _stale_path),
    Case("a file where the socket would be", False, _path_of_a_file),
    Case("a socket in a folder that is not there", False, lambda folder: ["--listen", f"unix:{folder}/no/sock"]),
    Case("a socket with too long a path", False, lambda folder: ["--listen", f"unix:{folder}/{'x' * 120}"]),
    Case("a host that is not ours", False, options=("--listen", "192.0.2.1:0")),
    Case("a host without a form", False, options=("--listen", f"{'x' * 300}:0")),
    Case("off loopback without TLS", False, options=("--listen", "0.0.0.0:0")),
    Case("a certificate that is not there", False, options=("--tls-cert", "no.pem", "--tls-key", "no.key")),
    Case("a byte order mark", True, _file("mooring.toml", "\ufeff[log]\nlevel = \"info\"\n")),
    Case("an unknown key", False, _file("mooring.toml", "[log]\nlevl = \"info\"\n")),
    Case("a setting that no clock can hold", False, _file("mooring.toml", "[journal]\nmax_age = inf\n")),
    Case("variables of Kubernetes", True, env={"MOORING_PORT": "tcp://10.0.0.1:8480", "MOORING_SERVICE_HOST": "10.0.0.1"}),
    Case("a variable that is misspelled", False, env={"MOORING_API_LISTN": "127.0.0.1:0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_check_says_what_a_start_does(case: Case, tmp_path: Path) -> None:
    options = ["--state-dir", str(tmp_path / case.state), "--listen", "127.0.0.1:0", *case.options]
    options += case.prepare(tmp_path) or []
    before = _all_in(tmp_path)
    env = {**os.environ, **case.env}
    checked = await asyncio.to_thread(
        subprocess.run,
        [*MOORING, "check", *options],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in checked.stderr
    assert _all_in(tmp_path) == before, "nothing was made"
    assert (checked.returncode == 0) is case.starts, checked.stdout + checked.stderr
    serving = await asyncio.create_subprocess_exec(
        *MOORING, "serve", *options, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert serving.stdout is not None
        ready = await asyncio.wait_for(serving.stdout.readline(), 60)
    finally:
        if serving.returncode is None:
            serving.terminate()
        _, errors = await asyncio.wait_for(serving.communicate(), 60)
        while _OPEN:
            _OPEN.pop().close()
    assert ready.startswith(b"mooring is ready") is case.starts, errors
    if not case.starts:
        *usage, last = errors.decode().splitlines()
        assert not usage or usage[0].startswith("Usage: "), errors
        reason = last.removeprefix("Error: ")
        assert reason in checked.stdout + checked.stderr, "in the same words"


def _all_in(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")}


async def test_a_restart_into_an_address_that_cannot_be_had_is_refused(
    start_service: StartService, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text('[api]\nlisten = "127.0.0.1:0"\n')
    service = await start_service("--config", str(config), listen="")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        ran = await mooring(service, "restart")
    assert ran.code == 1
    assert "the restart is refused, the old service goes on: cannot listen on" in ran.errors, ran.errors
    assert (await service.get("/healthz"))["status"] == "ok"
    config.write_text(f'[api]\nlisten = "127.0.0.1:{service.port}"\n')
    ran = await mooring(service, "restart")
    assert ran.code == 0, ran.errors


async def test_a_restart_with_the_managers_socket_asks_for_no_other(
    start_service: StartService, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    with socket.create_server(("127.0.0.1", 0)) as managers, socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        hand_over = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, '-m', 'mooring_api', *sys.argv[2:]])"
        )
        os.set_inheritable(managers.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-c", hand_over, str(managers.fileno()), "serve", "--state-dir", str(tmp_path / "state"),
             "--config", str(config)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[managers.fileno()],
        )  # fmt: skip
        try:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
            assert f":{managers.getsockname()[1]} ".encode() in line
            ran = await mooring(RunningService(tmp_path / "state"), "restart")
            assert ran.code == 0, ran.errors
        finally:
            process.terminate()
            await asyncio.to_thread(process.communicate, timeout=60)
