"""One worker process, started as the supervisor does it."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from mooring.link.messages import WorkerSettings
from mooring_service.processes import worker_process


def settings(folder: Path, **more: object) -> WorkerSettings:
    """Return settings of a worker that finds no service."""
    return WorkerSettings(
        worker="w", incarnation="i", secret="s", socket_path=str(folder / "absent"), log_file=str(folder / "w.log"),
        exit_record=str(folder / "exit.json"), **more,
    )  # fmt: skip


async def test_settings_of_any_length_keep_nobody_waiting_for_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    goes = tmp_path / "goes"
    (slow / "sitecustomize.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(goes)!r}): time.sleep(0.01)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(slow))
    deny = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(65_536)]  # more than a pipe holds
    process = worker_process.start(settings(tmp_path, egress_deny=deny, orphan_time_s=0.5))
    try:
        goes.touch()  # until now the child's interpreter was starting
        ended = await asyncio.wait_for(process.exited, 60)
    finally:
        process.send_signal(signal.SIGKILL)
    record = worker_process.take_exit_record(str(tmp_path / "exit.json"))
    assert record is not None and record.reason == "no service for 0.5 s", "it has read all of them"
    assert ended.exit_code == 0


@pytest.mark.parametrize("known", [True, False], ids=["kernel of today", "kernel before 6.3"])
async def test_a_worker_reads_its_settings_on_every_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if not known:
        monkeypatch.setattr(worker_process, "_MFD_NOEXEC_SEAL", 1 << 30)  # a flag that this kernel does not know
    process = worker_process.start(settings(tmp_path, orphan_time_s=0.1))
    ended = await asyncio.wait_for(process.exited, 60)
    assert json.loads((tmp_path / "exit.json").read_text())["reason"] == "no service for 0.1 s"
    assert ended.exit_code == 0
