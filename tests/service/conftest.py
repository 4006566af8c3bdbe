"""What the tests of this floor share: workers that are not real."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring_service.processes import worker_process
from tests.service.fake_worker import PROGRAM, FakeWorkers


@pytest.fixture
async def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeWorkers]:
    """The service starts fake workers in this test."""
    workers = FakeWorkers(tmp_path)
    workers.listen()
    monkeypatch.setenv("FAKE_WORKERS", str(workers.path))
    monkeypatch.setattr(worker_process, "PROGRAM", (sys.executable, "-I", "-S", "-c", PROGRAM))
    yield workers
    workers.close()
