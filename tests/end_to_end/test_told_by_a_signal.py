"""Workers that are told to end by a signal, not by their service."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.conftest import StartService, wait_for
from tests.servers import RawConnection, RawServer


@pytest.mark.alone
@pytest.mark.parametrize("kill_timeout", ["0.5", "1.5"])
async def test_a_worker_that_is_told_by_a_signal_has_closed_before_it_would_be_killed(
    start_service: StartService, kill_timeout: str
) -> None:
    async def never_answers_a_close(connection: RawConnection) -> None:
        await connection.accept()
        while await connection.reader.read(1_000):
            pass

    service = await start_service(env={"MOORING_SUPERVISOR_KILL_TIMEOUT": kill_timeout})
    async with RawServer(never_answers_a_close) as server:
        record = await service.open(server.url, closeTimeout=60)
        (pid,) = service.worker_pids()
        await service.kill()
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        exits = service.state_dir / "exits"
        await wait_for(lambda: list(exits.glob("*.json")))  # written when all has been decided
        assert time.monotonic() - began < float(kill_timeout) + 0.5, "the machine may be busy"
        (record_of_exit,) = exits.iterdir()
        assert json.loads(record_of_exit.read_text())["reason"] == "signal SIGTERM"
        await service.start()
        end = (await service.events(record["id"], until="onTerminate"))[-1]["event"]
        assert end["reason"] == "the worker died: signal SIGTERM", "the service finds what the worker wrote down"
