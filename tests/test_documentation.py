"""Every command and code block of the documentation, run as it stands.

```console  `$ ` lines are typed into one shell per page, and what follows each must come out; `…` stands for anything
```python   is run as a program, in the page's folder of scratch files; `# file: NAME` as first line only writes it there
```mjs, ```php, ```go   are run where their interpreter is there
```toml     is a configuration that loads
```json     parses
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
from pathlib import Path
from typing import NamedTuple

import pytest

from mooring_service.config import load
from tests.conftest import ROOT, StartService
from tests.servers import EchoServer

COMMAND_TIMEOUT_S = 30
RUNNABLE = {"console", "python", "toml", "json", "mjs", "php", "go"}
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
INTERPRETERS = {"mjs": ["node"], "php": ["php"], "go": ["go", "run"]}
_SKIP_DIRS = {".venv", "node_modules", "build", "dist"}


class Block(NamedTuple):
    language: str
    text: str
    line: int


def pages() -> list[Path]:
    found = [path for path in ROOT.rglob("*.md") if not _SKIP_DIRS & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if any(b.language in RUNNABLE for b in blocks(path)))


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

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Shell:
        self.process = await asyncio.create_subprocess_exec(
            "bash",
            cwd=ROOT,
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
            await asyncio.wait_for(self.process.wait(), 5)
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


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
async def test_every_block_of_the_page_does_what_it_says(
    page: Path, start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    examples = ROOT / "workers" / "examples"
    arguments = ["--app-dir", str(scratch)]
    if examples.exists():
        arguments += ["--app-dir", str(examples), "--config", str(examples / "mooring.toml")]
    service = await start_service(*arguments)
    ours = {"8480": str(service.port), "8481": str(echo.port)}
    theirs = {value: key for key, value in ours.items()}
    binaries = Path(sys.executable).parent
    env = {
        **os.environ,
        "MOORING_STATE_DIR": str(service.state_dir),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "SCRATCH": str(scratch),
        "COLUMNS": "120",
        "TOKEN": service.token,
    }

    def swap(text: str, ports: dict[str, str]) -> str:
        return re.sub("|".join(rf"\b{port}\b" for port in ports), lambda m: ports[m[0]], text)

    async with Shell(env) as shell:
        for block in blocks(page):
            where = f"{page.relative_to(ROOT)}:{block.line}"
            if block.language == "console":
                for command, expected in steps(block.text):
                    typed = swap(command, ours).replace(".venv/bin/", f"{binaries}/")
                    output = swap(await shell.run(typed), theirs)
                    assert pattern(expected).fullmatch(output), (
                        f"{where}: {command}\n{output}\n--- expected\n{expected}"
                    )
            elif block.language == "python":
                first, _, rest = block.text.partition("\n")
                if first.startswith("# file: "):
                    (scratch / first[8:].strip()).write_text(swap(rest, ours))
                    continue
                run = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", swap(block.text, ours), cwd=scratch, env=env, stderr=subprocess.PIPE
                )
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    _, errors = await run.communicate()
                assert run.returncode == 0, f"{where}: {errors.decode()}"
            elif block.language in INTERPRETERS:
                command = INTERPRETERS[block.language]
                if shutil.which(command[0]) is None:
                    print(f"{where}: not run: no {command[0]} here")
                    continue
                source = scratch / f"page.{block.language}"
                source.write_text(swap(block.text, ours))
                run = await asyncio.create_subprocess_exec(
                    *command, str(source), cwd=scratch, env=env, stderr=subprocess.PIPE
                )
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    _, errors = await run.communicate()
                assert run.returncode == 0, f"{where}: {errors.decode()}"
            elif block.language == "toml":
                path = scratch / "page.toml"
                path.write_text(block.text)
                load(path, {})
            elif block.language == "json":
                json.loads(block.text)


def test_the_reference_pages_are_what_the_code_says() -> None:
    run = subprocess.run(
        [sys.executable, "tools/make-reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
