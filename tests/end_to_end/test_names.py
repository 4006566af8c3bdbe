"""Host names whose servers do not answer, or are an enemy's; we are the name server, in namespaces of our own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from mooring.errors import ErrCode
from tests.conftest import ROOT

NAMESPACES = ["unshare", "--map-root-user", "--mount", "--net"]


def _have_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


async def _run(module: str, timeout_s: float) -> dict[str, Any]:
    if not _have_namespaces():
        pytest.skip("this machine lets us make no namespaces (unshare): without them we cannot be its name server")
    process = await asyncio.create_subprocess_exec(
        *NAMESPACES, sys.executable, "-m", f"tests.end_to_end.{module}", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


@pytest.mark.alone
async def test_names_that_nobody_answers_for_keep_no_other_dial_waiting() -> None:
    found = await _run("unanswered_names", 110)
    assert found["errCode"] == ErrCode.NAME_NOT_RESOLVED
    assert found["answer_s"] < 3
    assert found["stop_s"] < 4, "nor the end of the worker"


@pytest.mark.timeout(300)
async def test_a_hook_to_a_name_that_its_owner_moves_never_reaches_the_metadata_service() -> None:
    found = await _run("rebinding_names", 290)
    assert found["canary"] == 0 and found["refused"].endswith("address-refused")
    assert found["honest"] >= 3 and found["in_order"] and found["events"] >= 9
