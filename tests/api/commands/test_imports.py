"""What a command imports before it can ask the service: no HTTP library, nothing that the service is made of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import RunningService

PLAIN = (["ls"], ["workers"], ["show", "1"], ["send", "1", "text"], ["close", "1"], ["kill", "nobody"])


@pytest.mark.parametrize("command", PLAIN, ids=lambda words: words[0])
async def test_a_plain_command_needs_no_http_library(service: RunningService, command: list[str]) -> None:
    program = (
        "import sys\n"
        "from mooring_api.commands.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n', sorted({'aiohttp', 'uvloop', 'apsw'} & set(sys.modules)))\n"
    )
    arguments = ["--url", service.url, "--state-dir", str(service.state_dir), *command]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1].strip() == "[]", (done.stdout, done.stderr)
