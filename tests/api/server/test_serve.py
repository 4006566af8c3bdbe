"""The life of `mooring serve` where no signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from mooring_api.server import restart
from mooring_api.server.composition import ServeOptions
from mooring_api.server.serve import serve
from mooring_service.config import ApiConfig, Config
from mooring_service.journal.transaction import Transaction


async def test_a_service_whose_journal_has_died_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(api=ApiConfig(listen="127.0.0.1:0", no_auth=True))
    serving = asyncio.create_task(serve(config, ServeOptions(state_dir=tmp_path)))
    async with asyncio.timeout(60):
        while not (tmp_path / "address").exists():
            await asyncio.sleep(0.01)
        monkeypatch.setattr(Transaction, "write", lambda self: sys.exit("a mistake of ours"))
        async with aiohttp.ClientSession((tmp_path / "address").read_text().strip()) as client:
            async with client.put("/v1/workers/main") as response:
                assert response.status == 507, "whoever waits is told"
        outcome = await serving
    assert outcome.code == 1 and outcome.socket is None
    assert "the next start goes on" in caplog.text


async def test_a_hangup_during_the_start_is_obeyed_once_it_has_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(api=ApiConfig(listen="127.0.0.1:0", no_auth=True))
    read: list[Path] = []

    def reload() -> Config:
        read.append(tmp_path / "address")
        assert read[-1].exists(), "not before there is something to reconfigure"
        return config

    serving = asyncio.create_task(serve(config, ServeOptions(state_dir=tmp_path), reload))
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGHUP)
        while not read:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await serving).code == 0
    assert len(read) == 1
    assert "SIGHUP while it starts" in caplog.text and "were read again" in caplog.text


async def test_a_dry_run_that_cannot_be_started_refuses_the_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "cannot be started" in (await restart.refusal() or "")


def test_a_refusal_that_cannot_be_written_down_is_seen_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(restart, "replace_text", full)
    restart.tell_refused(tmp_path, "the disk is full")
    assert restart.refusal_file(tmp_path).read_text() == ""
