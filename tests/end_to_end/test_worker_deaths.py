"""Workers that die, hang, or are not wanted: what it costs, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator

import pytest

from mooring.link.channel import frame
from mooring.link.messages import Hello, Refused, command_decoder
from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.follower import Follower
from tests.servers import EchoServer, FeedServer

PR_SET_CHILD_SUBREAPER = 36


@pytest.mark.alone
async def test_a_killed_worker_costs_its_connections_their_end_and_nobody_else_anything(
    service: RunningService,
) -> None:
    async with FeedServer(rate=250) as feed, Follower(service) as follower:
        ledger = follower.ledger
        opened = [await service.open(f"{feed.url}{n}", worker=f"w{n % 4}") for n in range(8)]
        by_worker = {f"w{n}": [r["id"] for r in opened if r["worker"] == f"w{n}"] for n in range(4)}
        await wait_for(lambda: len(ledger.numbers) == 8 and min(ledger.numbers.values()) > 200)
        pid = (await service.get("/v1/workers/w1"))["pid"]
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await wait_for(lambda: set(by_worker["w1"]) <= set(ledger.ended), 3)
        took = time.monotonic() - killed_at
        print(f"onTerminate of all {took:.3f} s after SIGKILL")
        assert took < 1.0
        for connection in by_worker["w1"]:
            assert ledger.ended[connection]["code"] == 1006
            assert not ledger.ended[connection]["wasClean"]
            assert "SIGKILL" in ledger.ended[connection]["reason"]
        await asyncio.sleep(0.3)
        await feed.stop_sending()
        names = {record["id"]: f"/{n}" for n, record in enumerate(opened)}
        others = [connection for name, ids in by_worker.items() if name != "w1" for connection in ids]
        await wait_for(lambda: all(ledger.numbers[c] == feed.sent[names[c]] for c in others))
        assert set(ledger.ended) == set(by_worker["w1"])
        assert ledger.gaps == 0
        page = await service.get("/v1/events?after=start&kind=workerExited&limit=10")
        (exited,) = page["events"]
        assert exited["event"]["signal"] == signal.SIGKILL
        assert exited["event"]["restarting"] is True
        again = await wait_for(lambda: _running(service, "w1"))
        assert again["restarts"] == 1
        assert again["pid"] != pid


async def _running(service: RunningService, name: str) -> dict[str, object] | None:
    record = await service.get(f"/v1/workers/{name}")
    return record if record["status"] == "Running" else None


@contextlib.contextmanager
def _parent_of_orphans() -> Iterator[None]:
    """Be what init is: who buries orphans, at once. In a container some other process does it, late or never."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.parametrize("buried", [False, True])
async def test_a_worker_that_ended_in_order_while_the_service_was_away_has_told_why(
    start_service: StartService, buried: bool
) -> None:
    service = await start_service(env={"MOORING_WORKER_ORPHAN_TIME": "0.3"})
    async with FeedServer(rate=100) as feed:
        record = await service.open(feed.url)
        (pid,) = service.worker_pids()
        with _parent_of_orphans():
            await service.kill()
            await wait_for(lambda: feed.ends)
            assert feed.ends[0][1] == 1001, "an orphan closes its connections"
            await wait_for(lambda: not service.worker_pids())
            if buried:
                await _bury(pid)
            await service.start()
        events = await service.events(record["id"], until="onTerminate")
        assert events[-1]["event"]["code"] == 1006
        assert "no service for" in (await wait_for(lambda: _exit_event(service)))["reason"]
        if not buried:
            await _bury(pid)


async def _bury(pid: int) -> None:
    """Take note of the end of a process, unless its parent has: that one may have lived a moment longer than the service."""
    with contextlib.suppress(ChildProcessError):
        await asyncio.to_thread(os.waitpid, pid, 0)


async def test_a_worker_of_another_version_is_refused_with_the_reason(service: RunningService) -> None:
    def hello(version: int, incarnation: str = "0" * 16) -> bytes:
        return frame(
            Hello(
                oldest_version=version, version=version, build="9", worker="main", incarnation=incarnation, secret="s",
                pid=1, started_at_ticks=1, boot_id="b", first_unstored=1, connections=[], restarts=0,
            )
        )  # fmt: skip

    for message, reason in ((hello(99), "link versions 99"), (hello(1), "does not know it")):
        reader, writer = await asyncio.open_unix_connection(str(service.state_dir / "link.sock"))
        writer.write(message)
        data = await asyncio.wait_for(reader.read(), 60)
        refused = command_decoder.decode(data[4:])
        assert isinstance(refused, Refused)
        assert reason in refused.reason
        assert refused.drain
        writer.close()
    await wait_for(lambda: "is refused" in service.log())


async def test_a_worker_that_hangs_has_its_stacks_dumped_and_is_replaced(start_service: StartService) -> None:
    service = await start_service(
        env={"MOORING_SUPERVISOR_WATCHDOG_TIMEOUT": "3", "MOORING_SUPERVISOR_PROBE_INTERVAL": "0.2"}
    )
    record = await service.call("PUT", "/v1/workers/main", 201)
    os.kill(record["pid"], signal.SIGSTOP)
    exited = await wait_for(lambda: _exit_event(service))
    assert "did not answer" in exited["reason"]
    again = await wait_for(lambda: _running(service, "main"))
    assert again["pid"] != record["pid"]


async def test_a_worker_whose_loop_is_stuck_in_native_code_leaves_its_stacks_in_its_log(
    start_service: StartService,
) -> None:
    service = await start_service(
        "--function", "hold=tests.end_to_end.user_code:hold_the_lock", "--app-dir", str(ROOT),
        env={"MOORING_SUPERVISOR_WATCHDOG_TIMEOUT": "3", "MOORING_SUPERVISOR_PROBE_INTERVAL": "0.2"},
    )  # fmt: skip
    problem = await service.call("POST", "/v1/workers/main/calls", 502, json={"function": "hold", "params": [60]})
    assert problem["type"] == "urn:mooring:problem:worker-died"
    log = service.worker_log()
    assert "Thread 0x" in log and "hold_the_lock" in log, log


async def test_a_worker_whose_callbacks_can_run_no_more_says_so_and_is_replaced(
    start_service: StartService, echo: EchoServer
) -> None:
    names = ("add", "break_reports")
    functions = (f"--function={name}=tests.end_to_end.user_code:{name}" for name in names)
    service = await start_service("--app-dir", str(ROOT), *functions)
    record = await service.open(echo.url)
    problem = await service.call("POST", "/v1/workers/main/calls", 502, json={"function": "break_reports"})
    assert "the thread of callbacks has ended" in problem["detail"]
    exited = await wait_for(lambda: _exit_event(service))
    assert exited["reason"] == "the thread of callbacks has ended"
    assert (exited["exitCode"], exited["restarting"]) == (4, True)
    await service.events(record["id"], "onTerminate")
    await wait_for(lambda: echo.peers[0].close_code == 1001)
    call = {"function": "add", "params": [1, 2]}
    assert (await service.call("POST", "/v1/workers/main/calls", json=call))["result"] == 3
    await wait_for(lambda: "NoneType" in service.worker_log())


async def _exit_event(service: RunningService) -> dict[str, object] | None:
    events = (await service.get("/v1/events?after=start&kind=workerExited"))["events"]
    return events[-1]["event"] if events else None


async def test_beyond_its_restart_budget_a_worker_is_failed_until_somebody_restarts_it(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        env={"MOORING_SUPERVISOR_RESTART_BUDGET": "2", "MOORING_SUPERVISOR_RESTART_DELAY": "0.01"}
    )
    await service.call("PUT", "/v1/workers/main", 201)
    for _ in range(3):
        record = await wait_for(lambda: _running(service, "main"))
        os.kill(record["pid"], signal.SIGKILL)
        await wait_for(lambda pid=record["pid"]: _no_longer(service, pid))
    failed = await wait_for(lambda: _failed(service))
    assert failed["reason"]
    assert (await service.get("/readyz"))["degraded"] == ["main"]
    assert (await service.open(echo.url, 409))["status"] == 409

    async def exits() -> list[bool] | None:
        events = (await service.get("/v1/events?after=start&kind=workerExited"))["events"]
        return [event["event"]["restarting"] for event in events] if len(events) >= 3 else None

    assert await wait_for(exits) == [True, True, False]
    assert (await service.call("PUT", "/v1/workers/main", 200))["status"] == "Running"
    await service.open(echo.url)


async def _no_longer(service: RunningService, pid: int) -> bool:
    return (await service.get("/v1/workers/main"))["pid"] != pid


async def _failed(service: RunningService) -> dict[str, object] | None:
    record = await service.get("/v1/workers/main")
    return record if record["status"] == "Failed" else None
