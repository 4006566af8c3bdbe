"""Many real workers that start at once, on few cores: each has its turn, and the time of a start then. (That a slow one is no dead one: `test_watchdog`.)"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from mooring_service.config import Config, JournalConfig, SupervisorConfig
from mooring_service.journal.memory import MemoryJournal
from mooring_service.service import Service

WORKERS = 40


@pytest.mark.timeout(300)
async def test_forty_workers_at_once_are_all_running_at_the_first_try(tmp_path: Path) -> None:
    # So long that no turn is over before its worker runs.
    config = Config(supervisor=SupervisorConfig(start_timeout=120.0, probe_interval=0.5))
    service = Service(config, tmp_path, MemoryJournal(JournalConfig(store="memory")))
    await service.start()
    try:
        begun = time.monotonic()
        starting = [asyncio.create_task(service.workers.start(f"w{index}")) for index in range(WORKERS)]
        most = 0
        while not all(task.done() for task in starting):
            slots = service.workers.slots()
            most = max(most, sum(slot.process is not None and not slot.linked for slot in slots))
            await asyncio.sleep(0.02)
        records = [record for record, _ in await asyncio.gather(*starting)]
        print(f"{WORKERS} workers in {time.monotonic() - begun:.1f} s, at most {most} starting at a time")
        assert {(record.status, record.restarts) for record in records} == {("Running", 0)}
        assert most <= len(os.sched_getaffinity(0)) + 1
    finally:
        await service.stop()
