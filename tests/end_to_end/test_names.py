"""Host names whose servers do not answer keep no other dial of the worker waiting."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from mooring.errors import ErrCode
from tests.conftest import ROOT

NAMESPACES = ["unshare", "--map-root-user", "--mount", "--net"]


def _have_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


async def test_names_that_nobody_answers_for_keep_no_other_dial_waiting() -> None:
    if not _have_namespaces():
        pytest.skip("this machine lets us make no namespaces (unshare): without them we cannot be its name server")
    process = await asyncio.create_subprocess_exec(
        *NAMESPACES, sys.executable, "-m", "tests.end_to_end.unanswered_names", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    found = json.loads(output)
    assert found["errCode"] == ErrCode.NAME_NOT_RESOLVED
    assert found["answer_s"] < 3
    assert found["stop_s"] < 4, "nor the end of the worker"
