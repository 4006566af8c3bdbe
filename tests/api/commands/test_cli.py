"""The command line as people and scripts use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from mooring_api.commands.cli import main
from tests.command_line import command, mooring
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer, FeedServer


async def test_open_ls_show_send_close_for_scripts(shared: RunningService, echo: EchoServer) -> None:
    opened = json.loads((await mooring(shared, "open", echo.url, "--worker", "scripts", "--json")).out)
    number = str(opened["id"])
    assert (await mooring(shared, "send", number, "hi")).out == "sent 1 message, 2 bytes\n"
    assert (await mooring(shared, "send", number, "--json", '{"a": 1}')).code == 0
    listed = [
        json.loads(line) for line in (await mooring(shared, "ls", "--worker", "scripts", "--json")).out.splitlines()
    ]
    assert [record["id"] for record in listed] == [opened["id"]]
    shown = json.loads((await mooring(shared, "show", number, "--json")).out)
    assert shown["stats"]["messagesOut"] == 2
    closed = json.loads((await mooring(shared, "close", number, "--json")).out)
    assert closed["status"] == "Closed"
    assert echo.peers[0].received == ["hi", '{"a": 1}']


async def test_open_offers_every_data_type(shared: RunningService, echo: EchoServer) -> None:
    for data_type in ("text", "blob", "object", "auto"):
        opened = await mooring(shared, "open", echo.url, "--data-type", data_type, "--json")
        assert json.loads(opened.out)["dataType"] == data_type
    wrong = await mooring(shared, "open", echo.url, "--data-type", "xml")
    assert wrong.code == 2 and "'auto'" in wrong.errors
    description = await shared.get("/openapi.json")
    asked = description["components"]["schemas"]["ConnectionRequest"]["properties"]["dataType"]
    assert sorted(asked["enum"]) == ["auto", "blob", "object", "text"]


async def test_send_streams_standard_input_line_by_line(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    text = "".join(f"line {n}\n" for n in range(500))
    ran = await mooring(shared, "send", str(record["id"]), "-", stdin=text.encode())
    assert "500 messages" in ran.out
    await wait_for(lambda: len(echo.peers[0].received) == 500)
    assert echo.peers[0].received == [f"line {n}" for n in range(500)]


async def test_send_reads_a_file_on_standard_input_too(
    shared: RunningService, echo: EchoServer, tmp_path: Path
) -> None:
    record = await shared.open(echo.url)
    (tmp_path / "lines").write_text("a\nb\nc\n")
    with (tmp_path / "lines").open() as file:
        run = await asyncio.create_subprocess_exec(*command(shared, "send", str(record["id"]), "-"), stdin=file)
        assert await asyncio.wait_for(run.wait(), 60) == 0
    await wait_for(lambda: echo.peers[0].received == ["a", "b", "c"])


def _read_all(master: int) -> str:
    """Read what a terminal was written until nobody has it open any more."""
    found = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            found += data
    return found.decode()


async def test_what_takes_longer_than_a_second_says_so_on_a_terminal(shared: RunningService, echo: EchoServer) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(shared, "open", f"{echo.url}slow?s=4"), stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    shown = _read_all(master)
    os.close(master)
    assert re.search(r"connecting … \d s", shown)
    assert shown.endswith("\r\x1b[K"), "it leaves no trace"
    assert "Connected" in out


async def test_errors_are_one_line_on_stderr_and_name_the_nearest(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url, worker="quotes")
    for arguments, hint in (
        (("show", str(record["id"] + 1000)), f"the nearest is {record['id']}"),
        (("tail", str(record["id"] + 1000)), f"the nearest is {record['id']}"),
        (("kill", "qoutes"), "quotes"),
        (("tail", "--worker", "qoutes"), "quotes"),
        (("ls", "--worker", "qoutes"), "quotes"),
        (("logs", "qoutes"), "quotes"),
        (("open", "ws://127.0.0.1:1/"), "refused"),
        (("open", "http://x"), "ws://"),
        (("call", "quotes", "nothing"), "functions"),
    ):
        ran = await mooring(shared, *arguments)
        assert ran.code == 1, arguments
        assert hint in ran.errors, ran.errors
        assert ran.out == ""
        assert len(ran.errors.strip().splitlines()) == 1
    for arguments, hint in ((("shwo",), "show"), (("ls", "--jsno"), "--json"), (("send", "1"), "TEXT")):
        ran = await mooring(shared, *arguments)
        assert ran.code == 2, arguments
        assert hint in ran.errors


async def test_without_a_service_it_says_what_to_do(tmp_path: Path) -> None:
    ran = await mooring(RunningService(tmp_path / "none"), "ls")
    assert ran.code == 1
    assert "mooring serve" in ran.errors
    gone = {"MOORING_URL": "http://127.0.0.1:1/"}
    for arguments in (("ls",), ("tail",), ("tail", "1")):
        ran = await mooring(RunningService(tmp_path), *arguments, env=gone)
        assert ran.code == 1
        assert ran.errors == "Error: no service answers at http://127.0.0.1:1: Connection refused\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = await mooring(RunningService(tmp_path / "new"), "serve", "--listen", address)
    assert (ran.code, ran.errors.count("\n")) == (1, 1)
    assert f"cannot listen on {address}" in ran.errors and "--listen" in ran.errors
    ran = await mooring(RunningService(tmp_path), "ls", env={"MOORING_URL": "127.0.0.1:8480"})
    assert "http://…" in ran.errors


async def test_a_wrong_token_is_said_as_such_and_a_slash_at_the_end_of_the_address_is_nothing(
    shared: RunningService,
) -> None:
    ran = await mooring(shared, "ls", env={"MOORING_TOKEN": "wrong", "MOORING_URL": f"{shared.url}/"})
    assert (ran.code, ran.out) == (1, "")
    assert "does not accept this token" in ran.errors


async def test_tail_shows_what_a_peer_says_as_it_is_and_lets_it_do_nothing_to_the_terminal(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url)
    await shared.send(record["id"], "[bold]x[/bold] :warning: \\[y] 日本 \x1b[31m")
    await wait_for(lambda: echo.peers[0].received)
    await echo.sockets[0].close(code=4000, message=b"\x1b]0;mine\x07[red]")
    await wait_for(echo.peers[0].gone.is_set)
    ran = await mooring(shared, "tail", str(record["id"]))
    assert ran.code == 0
    assert r"onMessage [bold]x[/bold] :warning: \[y] 日本 \x1b[31m" in ran.out
    assert "\x1b" not in ran.out
    shown = await mooring(shared, "show", str(record["id"]))
    assert r"4000 cleanly: \x1b]0;mine\x07[red]" in shown.out
    assert "\x1b" not in shown.out


async def test_tail_of_some_kinds_ends_with_the_connection(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    await shared.send(record["id"], "one")
    await shared.call("DELETE", f"/v1/connections/{record['id']}")
    for kind, count in (("onOpen", 1), ("onError", 0)):
        ran = await mooring(shared, "tail", str(record["id"]), "--kind", kind, "--json")
        assert (ran.code, len(ran.out.splitlines())) == (0, count)


async def test_standard_input_may_be_empty_and_stays_blocking(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    assert (await mooring(shared, "send", str(record["id"]), "-")).out == "sent 0 messages, 0 bytes\n"
    ran = await mooring(shared, "open", echo.url, "--interactive")
    assert (ran.code, ran.errors) == (0, "")
    assert "onTerminate 1000" in ran.out
    reading, writing = os.pipe()
    run = await asyncio.create_subprocess_exec(
        *command(shared, "send", str(record["id"]), "-", "-o", "json"), stdin=reading, stdout=subprocess.PIPE
    )
    os.write(writing, b"first\n")
    await wait_for(lambda: echo.peers[0].received == ["first"])
    assert os.get_blocking(reading), "others share this descriptor"
    os.write(writing, b"second\r\nno end of line")
    os.close(writing)
    out, _ = await asyncio.wait_for(run.communicate(), 60)
    os.close(reading)
    assert json.loads(out) == {"sent": 3, "bytes": 25}
    assert echo.peers[0].received == ["first", "second", "no end of line"]


async def test_a_narrow_terminal_keeps_what_matters_and_a_pipe_is_not_cut(
    service: RunningService, echo: EchoServer
) -> None:
    url = f"{echo.url}{'x' * 200}"
    record = await service.open(url, worker="a-worker-with-a-rather-long-name-of-45-letters")
    for arguments in (("ls",), ("workers",), ("top", "--count", "1")):
        ran = await mooring(service, *arguments, env={"COLUMNS": "60"})
        assert all(len(line.rstrip()) <= 60 for line in ran.out.splitlines()), ran.out
        assert "…" in ran.out
        assert ("Connected" if arguments == ("ls",) else "Running") in ran.out
    assert f"{record['id']}  Connected" in (await mooring(service, "ls", env={"COLUMNS": "60"})).out
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    run = await asyncio.create_subprocess_exec(*command(service, "ls"), stdout=subprocess.PIPE, env=environment)
    out, _ = await asyncio.wait_for(run.communicate(), 60)
    assert url in out.decode()


def test_every_help_fits_one_screen_and_has_an_example() -> None:
    def helps(group: click.Group, *path: str) -> list[tuple[str, ...]]:
        found = [path]
        context = click.Context(group)
        for name in group.list_commands(context):
            one = group.get_command(context, name)
            found += helps(one, *path, name) if isinstance(one, click.Group) else [(*path, name)]
        return found

    paths = helps(main)
    assert {path[0] for path in paths if path} >= {
        "serve", "token", "open", "ls", "show", "send", "tail", "close", "workers", "call", "kill", "logs", "top", "check",
        "console", "restart", "backup", "restore",
    }  # fmt: skip
    for path in paths:
        ran = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
        assert ran.exit_code == 0, path
        lines = ran.output.splitlines()
        assert len(lines) <= 23, f"{path}: {len(lines)} lines, and the prompt needs one"
        assert max(map(len, lines)) <= 80, path
        assert "Example" in ran.output, path


def test_a_command_does_not_load_the_service_that_it_talks_to() -> None:
    code = "import sys, mooring_api.commands.cli as c; c.main.get_command(None, 'ls'); print('mooring_service.service' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


async def test_what_does_not_talk_to_the_api_has_json_too(shared: RunningService, tmp_path: Path) -> None:
    assert json.loads((await mooring(shared, "token", "--json")).out) == {"token": shared.token}
    assert json.loads((await mooring(shared, "console", "--json")).out)["url"].endswith(f"#token={shared.token}")
    checks = (await mooring(shared, "check", "--listen", f"127.0.0.1:{shared.port}", "--json")).out.splitlines()
    assert [json.loads(line)["ok"] for line in checks] == [True, True, True], "the port is the running service's own"
    copied = json.loads((await mooring(shared, "backup", str(tmp_path / "copy.db"), "--json")).out)
    assert copied["bytes"] == (tmp_path / "copy.db").stat().st_size
    other = RunningService(tmp_path / "other")
    assert json.loads((await mooring(other, "restore", str(tmp_path / "copy.db"), "--json")).out)["stateDir"]


async def test_tail_survives_a_restart_without_losing_or_repeating(start_service: StartService) -> None:
    service = await start_service()
    async with FeedServer(rate=200) as feed:
        record = await service.open(feed.url)
        tail = await asyncio.create_subprocess_exec(
            *command(service, "tail", str(record["id"]), "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=2**20,
        )
        lines: list[dict[str, Any]] = []

        async def read() -> None:
            while line := await tail.stdout.readline():
                lines.append(json.loads(line))

        reading = asyncio.create_task(read())
        await wait_for(lambda: len(lines) > 100)
        await service.restart_after_kill(0.3)
        await asyncio.sleep(0.5)
        await feed.stop_sending()
        await wait_for(lambda: sum(line["kind"] == "onMessage" for line in lines) == feed.sent["/"])
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        await service.call("DELETE", f"/v1/connections/{record['id']}")
        assert await asyncio.wait_for(tail.wait(), 60) == 0, "it ends with the connection"
        await reading


async def test_open_follow_and_interactive(shared: RunningService, echo: EchoServer) -> None:
    follow = await mooring(shared, "open", f"{echo.url}close?code=4000", "--follow")
    assert "onTerminate 4000" in follow.out
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(shared, "open", echo.url, "--interactive"), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    os.set_blocking(master, False)
    seen = b""

    def screen(text: bytes) -> bool:
        nonlocal seen
        try:
            seen += os.read(master, 65536)
        except (BlockingIOError, OSError):
            pass
        return text in seen

    await wait_for(lambda: screen(b"onOpen") or screen(b"Connected"))
    os.write(master, b"typed at a prompt\n")
    await wait_for(lambda: "typed at a prompt" in (echo.peers[-1].received or [""])[0])
    await wait_for(lambda: seen.count(b"typed at a prompt") >= 2 or screen(b"\0never"))
    await wait_for(lambda: screen(b"> "))
    os.write(master, b"half")
    await echo.sockets[-1].send_str("meanwhile")
    await wait_for(lambda: screen(b" meanwhile\r\n\x1b8"))  # above the line that is being typed
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 60) == 130
    os.close(master)


async def test_check_says_what_is_wrong_with_each_line(start_service: StartService, tmp_path: Path) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text(
        '[handlers]\ngood = "hello:Hello"\nbad = "hello:Helo"\nabsent = "nothing_here:X"\nspelled = "hello:In4D"\n'
    )
    (tmp_path / "hello.py").write_text("class Hello: pass\nclass In4D: onMessage = print\n")
    service = RunningService(tmp_path / "state")
    ran = await mooring(
        service, "check", "--config", str(config), "--app-dir", str(tmp_path), "--listen", "127.0.0.1:0"
    )
    assert ran.code == 1
    lines = {
        line.split()[1] + " " + line.split()[2].rstrip(":"): line
        for line in ran.out.splitlines()
        if len(line.split()) > 2
    }
    assert any("good" in line and line.startswith("ok") for line in ran.out.splitlines()), ran.out
    assert any("No module named 'nothing_here'" in line for line in ran.out.splitlines()), lines
    assert any("has no 'Helo'" in line for line in ran.out.splitlines())
    assert any("In4D.onMessage: in Python" in line for line in ran.out.splitlines())
    service.state_dir.mkdir(mode=0o700)
    (service.state_dir / "token").write_text("abc\n")
    (service.state_dir / "token").chmod(0o644)
    ran = await mooring(service, "check", "--listen", "0.0.0.0:0")
    assert "it must be 600" in ran.out
    assert "--allow-remote" in ran.out, "as serve would say"
    config.write_text("[limits]\nmax_conections = 1\n")
    ran = await mooring(service, "check", "--config", str(config))
    assert ran.code == 1 and "max_connections" in ran.out


async def test_top_and_tables_have_no_colours_off_a_terminal(shared: RunningService, echo: EchoServer) -> None:
    await shared.open(echo.url + "x" * 200)
    for arguments in (("top", "--count", "1"), ("ls",), ("workers",)):
        ran = await mooring(shared, *arguments)
        assert ran.code == 0, ran.errors
        assert "\x1b[" not in ran.out
        assert "main" in ran.out
        assert all(len(line) <= 100 for line in ran.out.splitlines()), "it fits the terminal"


async def test_top_goes_on_after_a_restart_of_the_service(start_service: StartService) -> None:
    service = await start_service()
    await service.call("PUT", "/v1/workers/w", 201)
    top = await asyncio.create_subprocess_exec(
        *command(service, "top", "--json", "--interval", "0.2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    async def pid() -> int:
        return json.loads(await asyncio.wait_for(top.stdout.readline(), 60))["workers"][0]["pid"]

    before = await pid()
    await service.restart_after_kill(0.5)
    for _ in range(5):
        assert await pid() == before
    top.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(top.communicate(), 60)
    assert (top.returncode, errors) == (130, b"")


async def test_shell_completion_is_there() -> None:
    env = {**os.environ, "_MOORING_COMPLETE": "bash_source"}
    run = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "mooring"), stdout=subprocess.PIPE, env=env
    )
    out, _ = await run.communicate()
    assert b"complete" in out
