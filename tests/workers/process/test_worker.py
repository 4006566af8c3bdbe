"""The worker process without its service."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import msgspec
import pytest

from mooring.errors import MooringError
from mooring.link.messages import WorkerSettings
from mooring.process import worker
from mooring.usercode import current, handlers


def _settings(folder: Path, **more: float) -> WorkerSettings:
    return WorkerSettings(
        worker="test",
        incarnation="i",
        secret="",
        socket_path=str(folder / "absent"),
        log_file="",
        exit_record=str(folder / "exit.json"),
        **more,
    )


async def test_a_callback_that_never_returns_does_not_keep_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LAST_RESORT_S", 0.3)
    monkeypatch.setattr(worker, "SERVICE_STOP_GRACE_S", 0.1)
    settings = _settings(tmp_path, orphan_time_s=0.5)
    blocked, released = threading.Event(), threading.Event()

    def never_returns() -> None:
        blocked.set()
        released.wait(60)

    running = asyncio.create_task(worker.Worker(settings).run())
    try:
        await asyncio.sleep(0)
        current.runtime().context.post_task("stuck", never_returns)
        assert blocked.wait(60)  # in the loop: the time of an orphan is not over before
        reason = await asyncio.wait_for(running, 60)
    finally:
        released.set()
        current.set_runtime(None)
    assert reason == "no service for 0.5 s"
    assert msgspec.json.decode((tmp_path / "exit.json").read_bytes())["reason"] == reason


async def test_a_worker_ends_when_the_thread_of_its_callbacks_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SERVICE_STOP_GRACE_S", 0.1)
    running = asyncio.create_task(worker.Worker(_settings(tmp_path)).run())
    try:
        await asyncio.sleep(0)
        context = current.runtime().context
        context.post_task("it is well", lambda: None)
        monkeypatch.setattr(handlers, "message_of", None)  # hostile code can do that
        context.post_task("ends all", lambda: 1 / 0)
        with pytest.raises(MooringError, match="the thread of callbacks has ended"):
            await asyncio.wait_for(running, 60)
    finally:
        current.set_runtime(None)
    assert "the thread of callbacks" in msgspec.json.decode((tmp_path / "exit.json").read_bytes())["reason"]
