"""What api/SINKS.md writes to: Postgres, Redis and NATS, each a process of its own, on a port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import wait_for
from tests.proxies import NOBODY, TOOLS, _environment, free_port, program


class SinkProcess:
    """One server, in `folder`. `ready` is what it says once it can be used; without: it listens."""

    ready = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def command(self) -> list[str]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder,
                env=_environment(), start_new_session=True, **self.ids(),
            )  # fmt: skip
        await wait_for(self._listens, 60, f"{type(self).__name__} listens")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ids(self) -> dict[str, object]:
        return {}

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "output").read_text()
        if self.ready:
            return self.ready in (self.folder / "output").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Redis(SinkProcess):
    def command(self) -> list[str]:
        return [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "."]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Nats(SinkProcess):
    def command(self) -> list[str]:
        found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        if found is None:
            pytest.skip("no nats-server here (its wheel is for x86_64 alone)")
        return [found, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


class Postgres(SinkProcess):
    ready = "ready to accept connections"

    def ids(self) -> dict[str, object]:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def command(self) -> list[str]:
        found = sorted([*TOOLS.glob("usr/lib/postgresql/*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")])
        if not found:
            pytest.skip("no postgres here: tools/install-test-tools could not get it")
        if os.geteuid() == 0:
            if not all(parent.stat().st_mode & 1 for folder in (found[0], self.folder) for parent in folder.parents):
                pytest.skip("postgres will not run as root, and nobody may not reach it here")
            os.chown(self.folder, NOBODY, NOBODY)
        data = self.folder / "data"
        made = subprocess.run(
            [str(found[0] / "initdb"), "-D", str(data), "-U", "mooring", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False, **self.ids(),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return [
            str(found[0] / "postgres"), "-D", str(data), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "fsync=off",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"postgresql://mooring@127.0.0.1:{self.port}/postgres"
