"""The life of `mooring serve` where no signal ends it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from mooring_api.server.composition import ServeOptions
from mooring_api.server.serve import serve
from mooring_service.config import ApiConfig, Config
from mooring_service.journal.transaction import Transaction


async def test_a_service_whose_journal_has_died_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(api=ApiConfig(listen="127.0.0.1:0", no_auth=True))
    serving = asyncio.create_task(serve(config, ServeOptions(state_dir=tmp_path)))
    async with asyncio.timeout(10):
        while not (tmp_path / "address").exists():
            await asyncio.sleep(0.01)
        monkeypatch.setattr(Transaction, "write", lambda self: sys.exit("a mistake of ours"))
        async with aiohttp.ClientSession((tmp_path / "address").read_text().strip()) as client:
            async with client.put("/v1/workers/main") as response:
                assert response.status == 507, "whoever waits is told"
        outcome = await serving
    assert outcome.code == 1 and outcome.socket is None
    assert "the next start goes on" in caplog.text
