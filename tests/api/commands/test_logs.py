"""`mooring logs`: objects for programs, text that drives nothing on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

from tests.command_line import command, mooring
from tests.conftest import StartService, wait_for
from tests.servers import EchoServer

NOISY = """
import logging

class Noisy:
    def on_message(self, ws, event):
        print("printed\\t" + event.data, flush=True)
        logging.getLogger("app").warning("logged %s", event.data)
        raise ValueError(event.data)
"""


def _on_terminal(arguments: list[str]) -> str:
    master, slave = pty.openpty()
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # the other side is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    return shown.decode()


async def test_logs_are_objects_for_programs_and_text_that_drives_nothing_on_a_terminal(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    service = await start_service("--app-dir", str(tmp_path), "--handler", "noisy=noisy:Noisy")
    record = await service.open(echo.url, handler={"name": "noisy"})
    await service.send(record["id"], "\x1b[2Jx")
    await wait_for(lambda: "on_message has failed" in service.worker_log())
    ran = await mooring(service, "logs", "main")
    assert (ran.code, ran.errors) == (0, "")
    assert ran.out == service.worker_log(), "a pipe gets the file as it is"
    lines = [json.loads(line) for line in (await mooring(service, "logs", "main", "--json")).out.splitlines()]
    assert lines[-3] == {"event": "printed\t\x1b[2Jx", "worker": "main"}
    assert lines[-2].items() >= {"event": "logged \x1b[2Jx", "logger": "app", "connection": record["id"]}.items()
    assert lines[-1]["exception"].startswith("Traceback")
    shown = await asyncio.to_thread(_on_terminal, command(service, "logs", "main"))
    assert r"printed \x1b[2Jx" in shown
    assert f"incarnation={lines[-1]['incarnation']} connection={record['id']}" in shown
    assert re.search(r"\r\n  File .*noisy\.py", shown), "a traceback has its lines"
    assert "\x1b[2J" not in shown
    assert len((await mooring(service, "logs", "main", "-n", "2")).out.splitlines()) == 2


async def test_logs_follow_what_is_written(start_service: StartService, echo: EchoServer, tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    service = await start_service(
        "--app-dir", str(tmp_path), "--handler", "noisy=noisy:Noisy", env={"MOORING_LOG_FORMAT": "console"}
    )
    record = await service.open(echo.url, handler={"name": "noisy"})
    follow = await asyncio.create_subprocess_exec(
        *command(service, "logs", "main", "-f", "-n", "0"), stdout=subprocess.PIPE
    )
    lines: list[str] = []

    async def read() -> None:
        while line := await follow.stdout.readline():
            lines.append(line.decode())

    async def shown() -> bool:
        await service.send(record["id"], "tick")  # again and again: it may not have begun
        return f"connection={record['id']} WARNING app: logged tick\n" in "".join(lines)

    reading = asyncio.create_task(read())
    await wait_for(shown)
    follow.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(follow.wait(), 60) == 130
    await reading
    assert "printed\ttick\n" in lines
