"""What the service leaves to its workers of its own environment, and to others of its files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, StartService, wait_for
from tests.servers import EchoServer

OF_THE_SERVICE_MANAGER = {
    "NOTIFY_SOCKET": "@mooring-test-nobody-listens",
    "WATCHDOG_USEC": "60000000",
    "WATCHDOG_PID": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "mooring.socket",
}
UNDER_UMASK_0 = ["sh", "-c", 'umask 0; exec "$@"', "sh", sys.executable, "-m", "mooring_api"]


async def test_what_the_service_manager_says_to_the_service_is_not_said_to_code_in_workers(
    start_service: StartService,
) -> None:
    service = await start_service(
        "--function", "environment=tests.end_to_end.user_code:environment", "--app-dir", str(ROOT),
        env={**OF_THE_SERVICE_MANAGER, "MOORING_TOKEN": "secret", "OF_THE_USER": "kept"},
    )  # fmt: skip
    answer = await service.call("POST", "/v1/workers/main/calls", json={"function": "environment"})
    assert answer["result"]["OF_THE_USER"] == "kept"
    assert not (OF_THE_SERVICE_MANAGER.keys() | {"MOORING_TOKEN"}) & answer["result"].keys()


class Modes:
    """The modes of all that is seen in a folder while it is watched."""

    def __init__(self, folder: Path) -> None:
        self.seen: dict[str, int] = {}
        self._folder = folder
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0.001)

    def _look(self) -> None:
        for parent, folders, files in os.walk(self._folder):  # passes over a folder that goes meanwhile
            for path in (Path(parent), *(Path(parent, name) for name in (*folders, *files))):
                with contextlib.suppress(FileNotFoundError):
                    name = str(path.relative_to(self._folder))
                    self.seen[name] = self.seen.get(name, 0) | stat.S_IMODE(path.lstat().st_mode)

    async def stop(self) -> dict[str, int]:
        """Return what was open to others."""
        self._watching.cancel()
        (outcome,) = await asyncio.gather(self._watching, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome
        self._look()
        return {name: mode for name, mode in self.seen.items() if mode & 0o077}


async def test_every_file_of_the_state_directory_is_ours_alone_under_umask_0(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("[worker]\nlog_max_bytes = 1000\norphan_time = 1\n")
    service = await start_service("--config", str(config), program=UNDER_UMASK_0)
    modes = Modes(service.state_dir)
    for _ in range(20):
        await service.open(echo.url)
    logs = service.state_dir / "logs"
    (logs / "main.log").write_bytes(b"-" * 5_000)
    await wait_for((logs / "main.log.1").exists)
    copy = tmp_path / "copy.db"

    async def a_copy_was_seen() -> bool:  # in the state directory it is for a moment only
        async with service.client.post("/v1/backup") as response:
            copy.write_bytes(await response.read())
        return any("backup-" in name for name in modes.seen)

    await wait_for(a_copy_was_seen)
    config.write_text("[nonsense]\n")

    async def a_refusal_was_seen() -> bool:  # likewise
        told = service.log().count("the restart is refused")
        service.process.send_signal(signal.SIGUSR2)
        await wait_for(lambda: service.log().count("the restart is refused") > told)
        return any("restart-refused" in name for name in modes.seen)

    await wait_for(a_refusal_was_seen)
    config.write_text("[worker]\norphan_time = 1\n")
    (pid,) = service.worker_pids()
    await service.kill()
    # It leaves its exit record. Nobody need reap it: its parent is gone, too.
    await wait_for(lambda: pid not in service.worker_pids())
    assert await modes.stop() == {}
    assert {
        "token",
        "address",
        "journal.db",
        "journal.db-wal",
        "journal.ids",
        "lock",
        "logs/main.log.1",
    } <= modes.seen.keys()
    assert any(name.startswith("exits/") for name in modes.seen), modes.seen

    restored = tmp_path / "deep" / "down" / "restored"
    modes = Modes(restored)
    for arguments in (["restore", str(copy)], ["token"], ["check", "--listen", "127.0.0.1:0"]):
        command = [*UNDER_UMASK_0, "--state-dir", str(restored), *arguments]
        assert (await asyncio.to_thread(subprocess.run, command, check=False, env={**os.environ})).returncode == 0
    assert await modes.stop() == {}
    assert {"token", "journal.db", "."} <= modes.seen.keys()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in restored.parents[:2]] == [0o700, 0o700]


@pytest.mark.parametrize("name", ["address", "journal.db", "logs/main.log"])
async def test_a_file_that_an_earlier_version_left_open_to_others_is_closed(
    start_service: StartService, name: str
) -> None:
    service = await start_service()
    await service.call("PUT", "/v1/workers/main", 201)
    await service.stop()
    (service.state_dir / name).touch()
    (service.state_dir / name).chmod(0o644)
    await service.start()
    await service.call("PUT", "/v1/workers/main", 201)
    assert stat.S_IMODE((service.state_dir / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "iso-8859-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["iso-8859-1", "ascii", "C"],
)
async def test_code_may_print_anything_whatever_the_locale(start_service: StartService, env: dict[str, str]) -> None:
    functions = ("say", "say_surrogate", "environment")
    options = [f"--function={name}=tests.end_to_end.user_code:{name}" for name in functions]
    service = await start_service(*options, "--app-dir", str(ROOT), env=env)

    async def call(function: str, *params: str) -> Any:
        body = {"function": function, "params": list(params)}
        return (await service.call("POST", "/v1/workers/main/calls", json=body))["result"]

    await call("say", "Grüße 😀")
    await call("say_surrogate")
    lines = (service.state_dir / "logs" / "main.log").read_bytes().decode("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("{")] == ["Grüße 😀"] * 2 + ["\\ud800"] * 2
    assert [json.loads(line)["event"] for line in lines if '"own"' in line] == ["Grüße 😀", "\ud800"]
    inherited = await call("environment")
    assert inherited.get("PYTHONIOENCODING") == env.get("PYTHONIOENCODING"), "what it starts has what the service has"
