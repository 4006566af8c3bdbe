"""A service that starts on a full disk, under workers that hold connections; and a restart that would end there."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.test_faults import full_disk
from tests.end_to_end.test_operations import mooring
from tests.servers import EchoServer, FeedServer

PROGRAM = (sys.executable, "-m", "mooring_api")
ON_A_FULL_DISK = ("bash", "-c", 'ulimit -S -f 0; exec "$0" "$@"', *PROGRAM)
ORPHAN_S = 15  # a service that starts beside many others takes its time


async def _readiness(service: RunningService) -> dict[str, Any]:
    async with service.client.get("/readyz") as response:
        return {**await response.json(), "status": response.status}


@pytest.mark.parametrize("ended", ["killed", "stopped under its workers"])
async def test_workers_keep_their_connections_and_all_goes_on_once_there_is_room(
    start_service: StartService, ended: str
) -> None:
    """Row 6 of the review: it ended with "disk I/O error", and `orphan_time` later every connection was closed."""
    service = await start_service("--handover", env={"MOORING_WORKER_ORPHAN_TIME": str(ORPHAN_S)})
    async with FeedServer(rate=50) as feed:
        record = await service.open(feed.url)
        await service.events(record["id"], count=5)
        (pid,) = service.worker_pids()
        await (service.kill() if ended == "killed" else service.stop())
        service.program = ON_A_FULL_DISK
        await service.start()
        for _ in range(2 * (ORPHAN_S + 5)):
            await asyncio.sleep(0.5)
            readiness = await _readiness(service)
            assert readiness["status"] == 503
            assert any("journal" in reason for reason in readiness["reasons"]), readiness
        problem = await service.open(feed.url, None)
        assert problem["status"] in (503, 507), problem
        assert feed.ends == []
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        async def ready() -> bool:
            return (await _readiness(service))["status"] == 200

        await wait_for(ready)
        assert service.worker_pids() == [pid]
        await feed.stop_sending()

        async def all_stored() -> bool:
            return (await service.record(record["id"]))["stats"]["messagesIn"] == feed.sent["/"]

        await wait_for(all_stored)
        seqs = [event["seq"] for event in await service.events(record["id"], count=feed.sent["/"])]
        assert seqs == list(range(1, len(seqs) + 1))
        assert feed.ends == []


async def test_a_restart_is_refused_while_the_journal_cannot_be_written(
    service: RunningService, echo: EchoServer
) -> None:
    async with FeedServer(rate=50) as feed:
        await service.open(feed.url)
        async with full_disk(service):

            async def unready() -> bool:
                return (await _readiness(service))["status"] == 503

            await wait_for(unready)
            said = await mooring(service, "restart", status=1)
            assert "the restart is refused" in said
            assert service.process.poll() is None and feed.ends == []
        await service.open(echo.url, None)

        async def ready() -> bool:
            return (await _readiness(service))["status"] == 200

        await wait_for(ready)
        assert "restarted in" in await mooring(service, "restart")
        assert feed.ends == []
        service.process.send_signal(signal.SIGTERM)
