"""Every command and code block of the documentation, run as it stands.

```console  `$ ` lines are typed into one shell per page, and what follows each must come out; `…` stands for anything
```python   is run as a program, in the page's folder of scratch files; `# file: NAME` as first line only writes it there
```mjs, ```php, ```go   are run where their interpreter is there; a skip names the one that is not
```toml     is a configuration that loads
```json     parses
```text     is not run: another language, or commands that only root may type; there is no other kind of block
Ports 8480 and 8481 of the pages stand for those of the test's service and echo server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from mooring_service.config_file import load
from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.servers import EchoServer
from tests.test_architecture import tracked

COMMAND_TIMEOUT_S = 120
PROGRAM_TIMEOUT_S = 120  # the first `go run` of a machine compiles the standard library
BINARIES = Path(sys.executable).parent
RUNNABLE = {"console", "python", "toml", "json", "mjs", "php", "go"}
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_LATER = re.compile(r"sleep [\d.]+; mooring (ls|show|logs|tail) [^;&|<>(`]*")  # it only reads
_NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
INTERPRETERS = {"mjs": ["node"], "php": ["php"], "go": ["go", "run"]}


class Block(NamedTuple):
    language: str
    text: str
    line: int


def _all_pages() -> list[Path]:
    return sorted(path for path in tracked() if path.suffix == ".md")


def pages() -> list[Path]:
    return [path for path in _all_pages() if any(block.language in RUNNABLE for block in blocks(path))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _FENCE.finditer(text)]


def steps(text: str) -> list[tuple[str, str]]:
    """Return (command, expected output) of a console block."""
    found: list[tuple[str, list[str]]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append((command, []))
        else:
            found[-1][1].append(line.rstrip())
    return [(command, "\n".join(output).strip("\n")) for command, output in found]


def pattern(expected: str) -> re.Pattern[str]:
    """Return what output must match: `…` is anything within a line, or any lines when it stands alone."""
    lines = [
        r"(?:.*\n)*?.*" if line.strip() == "…" else ".*?".join(map(re.escape, line.split("…")))
        for line in expected.splitlines()
    ]
    return re.compile("\n".join(lines))


class Shell:
    """One bash that keeps its variables between commands."""

    MARK = "__done__"

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self._folder = folder
        self._env = env
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Shell:
        self.process = await asyncio.create_subprocess_exec(
            "bash",
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=2**20,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 60)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    async def run(self, command: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho; echo {self.MARK}\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while (line := (await self.process.stdout.readline()).decode()) and line.strip() != self.MARK:
                lines.append(line.rstrip())
        return "\n".join(lines).strip("\n")


class Scene(NamedTuple):
    """Where the blocks of one page are run."""

    scratch: Path
    env: dict[str, str]
    ours: dict[str, str]
    service: RunningService
    echo: EchoServer

    def typed(self, text: str) -> str:
        """Return `text` with the ports of the test in place of the page's."""
        return _swap(text, self.ours)

    def printed(self, text: str) -> str:
        """Return `text` with the page's ports in place of the test's."""
        return _swap(text, {value: key for key, value in self.ours.items()})


async def is_echoed(scene: Scene) -> bool:
    """Has all that was sent to the echo server come back? Who types the next command has seen it; a program is faster."""
    page = await scene.service.get("/v1/connections?status=Connected&limit=1000")
    ours = [record["stats"] for record in page["connections"] if f":{scene.echo.port}/" in record["url"]]
    return all(stats["messagesIn"] >= stats["messagesOut"] for stats in ours)


def _swap(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(rf"\b{port}\b" for port in ports), lambda m: ports[m[0]], text)


@pytest.fixture
async def scene(start_service: StartService, echo: EchoServer, tmp_path: Path) -> Scene:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    examples = ROOT / "workers" / "examples"
    service = await start_service(
        "--app-dir", str(scratch), "--app-dir", str(examples), "--config", str(examples / "mooring.toml")
    )
    env = {
        **os.environ,
        "MOORING_STATE_DIR": str(service.state_dir),
        "PATH": f"{BINARIES}:{os.environ['PATH']}",
        "SCRATCH": str(scratch),
        "COLUMNS": "120",
        "TOKEN": service.token,
    }
    return Scene(scratch, env, {"8480": str(service.port), "8481": str(echo.port)}, service, echo)


async def run_program(scene: Scene, where: str, *command: str) -> None:
    run = await asyncio.create_subprocess_exec(*command, cwd=scene.scratch, env=scene.env, stderr=subprocess.PIPE)
    async with asyncio.timeout(PROGRAM_TIMEOUT_S):
        _, errors = await run.communicate()
    assert run.returncode == 0, f"{where}: {errors.decode()}"


@pytest.mark.timeout(900)  # many commands, one after the other
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
async def test_every_block_of_the_page_does_what_it_says(page: Path, scene: Scene) -> None:
    # Only pages of the root say what is in it; what the others' examples write is thrown away.
    async with Shell(scene.env, ROOT if page.parent == ROOT else scene.scratch) as shell:
        for block in blocks(page):
            where = f"{page.relative_to(ROOT)}:{block.line}"
            if block.language == "console":
                for command, expected in steps(block.text):
                    is_later = command.startswith("sleep ")
                    assert not is_later or _LATER.fullmatch(command), (
                        f"{where}: what is typed again may only read: {command}"
                    )
                    typed = scene.typed(command).replace(".venv/bin/", f"{BINARIES}/")
                    output = scene.printed(await shell.run(typed))
                    deadline = time.monotonic() + COMMAND_TIMEOUT_S
                    # "A moment later" is later on a busy machine.
                    while is_later and time.monotonic() < deadline and not pattern(expected).fullmatch(output):
                        output = scene.printed(await shell.run(typed))
                    assert pattern(expected).fullmatch(output), (
                        f"{where}: {command}\n{output}\n--- expected\n{expected}"
                    )
                    await wait_for(lambda: is_echoed(scene), what=f"{where}: what was sent is echoed")
            elif block.language == "python":
                first, _, rest = block.text.partition("\n")
                if first.startswith("# file: "):
                    (scene.scratch / first[8:].strip()).write_text(scene.typed(rest))
                else:
                    await run_program(scene, where, sys.executable, "-c", scene.typed(block.text))
            elif block.language == "toml":
                path = scene.scratch / "page.toml"
                path.write_text(block.text)
                load(path, {})
            elif block.language == "json":
                json.loads(block.text)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", INTERPRETERS)
async def test_the_programs_in_other_languages_run(language: str, scene: Scene) -> None:
    command = INTERPRETERS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here: the {language} blocks are not run")
    found = [(page, block) for page in pages() for block in blocks(page) if block.language == language]
    assert found
    for page, block in found:
        source = scene.scratch / f"page.{language}"
        source.write_text(scene.typed(block.text))
        await run_program(scene, f"{page.relative_to(ROOT)}:{block.line}", *command, str(source))


def test_there_is_no_block_that_is_neither_run_nor_text() -> None:
    for page in _all_pages():
        for language in re.findall(r"^ *(?:```|~~~)(.*)\n(?:.*\n)*?^ *(?:```|~~~)$", page.read_text(), re.M):
            assert language in RUNNABLE | {"text", ""}, f"{page.relative_to(ROOT)}: {language!r}"


def test_the_reference_pages_are_what_the_code_says() -> None:
    run = subprocess.run(
        [sys.executable, "tools/make-reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_each_test_that_a_page_names_is_there() -> None:
    named = [(page, *found) for page in _all_pages() for found in _NAMED_TEST.findall(page.read_text())]
    assert len(named) > 50
    missing = [one for one in named if not re.search(rf"^(async )?def {one[2]}\(", (ROOT / one[1]).read_text(), re.M)]
    assert not missing
