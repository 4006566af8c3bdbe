"""What a command imports: no HTTP library, nothing that the service is made of, and to write into a pipe nothing that draws."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import RunningService

PLAIN = (["ls"], ["workers"], ["show", "1"], ["send", "1", "text"], ["close", "1"], ["kill", "nobody"])
LISTS = (["ls"], ["workers"], ["hooks"])
MODULES = 260  # `ls` has 220; a hundred more are a tenth of a second on a slow machine


def modules_of(shared: RunningService, command: list[str]) -> set[str]:
    """Run a command whose output goes into a pipe; return what it has imported."""
    program = (
        "import sys\n"
        "from mooring_api.commands.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n', *sys.modules)\n"
    )
    arguments = ["--url", shared.url, "--state-dir", str(shared.state_dir), *command]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", PLAIN, ids=lambda words: words[0])
async def test_a_plain_command_needs_no_http_library(shared: RunningService, command: list[str]) -> None:
    found = modules_of(shared, command)
    assert "mooring_api.client.plain" in found
    assert not found & {"aiohttp", "uvloop", "apsw", "mooring_service.service"}


@pytest.mark.parametrize("command", LISTS, ids=lambda words: words[0])
async def test_a_list_in_a_pipe_is_written_without_what_draws_on_terminals(
    shared: RunningService, command: list[str]
) -> None:
    found = modules_of(shared, command)
    assert not found & {"rich", "asyncio"}, "a loop takes longer to import than such a request to answer"
    assert len(found) < MODULES
