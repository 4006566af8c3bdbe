"""The command line where the surroundings are poor: terminals that are not UTF-8, full disks, users without a home."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mooring_api.commands.cli import COMMANDS
from tests.conftest import RunningService, StartService
from tests.servers import EchoServer

TEXT = "grüße 😀 \u2028"


async def run(
    service: RunningService | None,
    *arguments: str | bytes,
    stdout: int = subprocess.PIPE,
    env: dict[str, str] | None = None,
) -> tuple[int, str, str]:
    where = () if service is None else ("--state-dir", str(service.state_dir))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mooring_api", *where, *arguments, stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "200"} | (env or {}),
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, (out or b"").decode("latin-1"), errors.decode("latin-1")


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii"])
async def test_what_the_terminal_cannot_show_is_escaped(
    shared: RunningService, echo: EchoServer, encoding: str
) -> None:
    record = await shared.open(f"{echo.url}?q=ü")
    number = str(record["id"])
    await shared.send(record["id"], TEXT)
    poor = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for arguments in (
        ("tail", number, "-n", "2"),
        ("tail", number, "-n", "2", "--json"),
        ("ls",),
        ("show", number),
        ("show", number, "--json"),
    ):
        code, out, errors = await run(shared, *arguments, env=poor)
        assert (code, errors) == (0, ""), arguments
        if encoding == "ascii":
            assert out.isascii(), arguments
        if "--json" in arguments and "tail" in arguments:
            message = json.loads(out.splitlines()[1])
            assert message["event"]["data"] == TEXT, "what is escaped is JSON all the same"
    code, out, _ = await run(shared, "tail", number, "-n", "2", env=poor)
    assert "\\ud83d\\ude00" in out


def test_the_help_and_what_click_says_itself_is_ascii_where_the_terminal_is() -> None:
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "200"}
    errors = b""
    for arguments in (*([name, "--help"] for name in COMMANDS), ["open", "--options"], ["grüße"], ["tail", "--grüße"]):
        ran = subprocess.run(
            [sys.executable, "-m", "mooring_api", *arguments], capture_output=True, env=os.environ | poor, check=False
        )
        assert ran.stdout.isascii() and ran.stderr.isascii(), arguments
        assert b"Traceback" not in ran.stderr
        errors += ran.stderr
        if arguments[0] == "tail" and arguments[1] == "--help":
            assert b"(onMessage, \\u2026)" in ran.stdout
    assert b"gr\\u" in errors, "what was typed is quoted with escapes"


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "1", b"\xff"),
        ("send", "1", "--json", b'"\xff"'),
        ("open", b"ws://127.0.0.1/\xff"),
        ("open", "ws://127.0.0.1:1/", "-H", b"A: \xff"),
        ("open", "ws://127.0.0.1:1/", "--worker", b"\xff"),
        ("open", "ws://127.0.0.1:1/", "--handler", "h", "--params", b"\xff"),
        ("kill", b"\xff"),
        ("call", "main", b"\xff"),
        ("call", "main", "f", b'["\xff"]'),
        ("logs", b"\xff"),
        ("tail", "--worker", b"\xff"),
    ],
    ids=str,
)
async def test_bytes_that_are_no_text_are_one_line_of_error(
    shared: RunningService, arguments: tuple[str | bytes, ...]
) -> None:
    code, out, errors = await run(shared, *arguments)
    assert code in (1, 2), errors
    assert out == ""
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert len(lines) == 1, errors


@pytest.mark.parametrize("token", ["a\r\nb", "a\nb", "\x7f\u2603"])
async def test_a_token_that_no_header_can_carry_is_one_line(shared: RunningService, token: str) -> None:
    code, _, errors = await run(shared, "ls", env={"MOORING_TOKEN": token})
    assert code == 1
    assert len(errors.splitlines()) == 1, errors


@pytest.mark.parametrize(
    "arguments", [("ls",), ("ls", "--json"), ("token",), ("--help",), ("workers",), ("show", "1")], ids=str
)
async def test_a_full_disk_under_the_output_is_one_line(
    shared: RunningService, echo: EchoServer, arguments: tuple[str, ...]
) -> None:
    record = await shared.open(echo.url)
    arguments = tuple(str(record["id"]) if part == "1" else part for part in arguments)
    with Path("/dev/full").open("w") as full:
        code, _, errors = await run(shared, *arguments, stdout=full.fileno())
    assert code == 1
    assert errors == "Error: No space left on device\n"


CLOSED = """
import os, sys
for number in map(int, sys.argv[1].split(",")):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "mooring_api", *sys.argv[2:]])
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1", "0,1,2"])
async def test_a_standard_stream_that_is_closed_is_as_dev_null(
    shared: RunningService, echo: EchoServer, closed: str
) -> None:
    record = await shared.open(echo.url)
    for arguments, code in (
        (("ls",), 0), (("send", str(record["id"]), "-"), 0), (("tail", str(record["id"]), "-n", "1"), 0), (("ls", "--no"), 2),
    ):  # fmt: skip
        command = [sys.executable, "-c", CLOSED, closed, "--state-dir", str(shared.state_dir), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code, (arguments, errors)
        assert b"Traceback" not in errors
        if code == 0:
            assert bool(out) == ("1" not in closed), (arguments, out)
            assert errors == b"", arguments


@pytest.mark.parametrize("columns", ["0", "00", "", "²", "x", "-1"])
async def test_columns_that_say_nothing_are_as_none(shared: RunningService, echo: EchoServer, columns: str) -> None:
    record = await shared.open(echo.url, headers={"A": "x"})
    number = str(record["id"])
    for arguments in (("tail", number, "-n", "1"), ("ls",), ("show", number), ("top", "--count", "1")):
        code, out, errors = await run(shared, *arguments, env={"COLUMNS": columns})
        assert (code, errors) == (0, ""), arguments
        assert "…".encode().decode("latin-1") not in out, "nothing is cut"


@pytest.mark.parametrize(
    "arguments",
    [("show", "1" * 5000), ("show", "²"), ("hooks", "set", "x", "http://127.0.0.1:9/", "--connection", "²"),
     ("hooks", "set", "x", "http://127.0.0.1:9/", "--connection", "1" * 5000)],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
async def test_a_number_that_is_no_id_is_one_line_of_error(shared: RunningService, arguments: tuple[str, ...]) -> None:
    code, out, errors = await run(shared, *arguments)
    assert code in (1, 2) and out == "" and "Traceback" not in errors, errors


async def test_ctrl_c_is_130_also_where_a_command_waits_for_its_input() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"waits\n"
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors) == (130, b"")


WAITS = """
import sys
from mooring_api.commands import service  # before it says that it waits
from mooring_api.commands.cli import main

class Typed:
    def readline(self):
        print("waits", flush=True)
        return sys.__stdin__.readline()

sys.stdin = Typed()
main(["token", "--hash"])
"""


NO_HOME = """
import os, pwd, sys

def getpwuid(uid):
    raise KeyError(uid)

os.environ.pop("HOME", None)
os.environ.pop("MOORING_STATE_DIR", None)
pwd.getpwuid = getpwuid  # as for a user id without an entry in the password file
sys.argv = ["mooring", *sys.argv[1:]]
from mooring_api.commands.cli import main
main()
"""


def _without_a_home(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NO_HOME, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_user_without_a_home_needs_none_where_the_place_is_named(shared: RunningService) -> None:
    named = _without_a_home("serve", "--state-dir", "/proc/none", "--listen", "127.0.0.1:0")
    assert "/proc/none" in named.stderr and "Traceback" not in named.stderr, "it comes to the directory that was named"
    asked = _without_a_home("--url", shared.url, "ls")
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1), asked.stderr
    assert "token" in asked.stderr, "the service was asked; it wants a token"
    unnamed = _without_a_home("ls")
    assert unnamed.stderr == "Error: there is no home directory to keep the state in: name one with --state-dir\n"
    assert _without_a_home("serve").stderr == unnamed.stderr


HELPS = """
import click
from mooring_api.commands.cli import main
assert main.callback.__doc__ is None, "docstrings are gone"
def look(command, *path):
    context = click.Context(command)
    print(" ".join(path), command.help.strip("\\b\\n").split("\\n")[0], command.get_short_help_str(), sep=" | ")
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        look(command.get_command(context, name), *path, name)
look(main, "mooring")
"""


def test_every_command_says_what_it_does_where_docstrings_are_taken_away() -> None:
    ran = subprocess.run([sys.executable, "-OO", "-c", HELPS], capture_output=True, text=True, check=True)
    rows = [line.split(" | ") for line in ran.stdout.splitlines()]
    first = [path.split()[1] for path, *_ in rows if path.count(" ") == 1]
    assert first == list(COMMANDS), "all of them, in their order"
    assert len(rows) > len(first) + 1, "and those within them"
    assert [path for path, *texts in rows if not all(texts)] == []


async def test_a_service_without_docstrings_and_assertions_works(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(env={"PYTHONOPTIMIZE": "2"})
    record = await service.open(echo.url)
    await service.send(record["id"], "hello")
    events = await service.events(record["id"], count=2)
    assert events[1]["event"]["data"] == "hello"
    await service.call("DELETE", f"/v1/connections/{record['id']}")
    assert [event["kind"] for event in await service.events(record["id"], until="onTerminate")][-1] == "onTerminate"
    assert (await service.get("/openapi.json"))["openapi"].startswith("3.1")
    assert await service.stop() == 0
