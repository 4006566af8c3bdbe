"""Faults that meet: a full disk and a death, a kill and a start, a crash and a request that was asked before it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import ROOT, RunningService, StartService, rounds, wait_for
from tests.end_to_end.with_user_code import call, held, options, seen_by
from tests.follower import Follower
from tests.servers import EchoServer, FeedServer


@contextlib.asynccontextmanager
async def full_disk(service: RunningService) -> AsyncIterator[None]:
    """No file of the service may grow: what a full disk is to it."""
    pid = service.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        if service.process.poll() is None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def _unready(service: RunningService) -> bool:
    return not await service.is_ready()


async def _worker(service: RunningService, name: str, **wanted: Any) -> dict[str, Any] | None:
    workers = (await service.get("/v1/workers"))["workers"]
    for record in workers:
        if record["name"] == name and all(record[key] == value for key, value in wanted.items()):
            return record
    return None


def _tracebacks(service: RunningService) -> list[str]:
    logs = [service.log(), *(path.read_text() for path in (service.state_dir / "logs").glob("*.log"))]
    return [line for log in logs for line in log.splitlines() if "Traceback" in line]


async def test_a_worker_killed_for_good_after_it_died_on_a_full_disk_is_gone_and_its_name_free(
    service: RunningService, echo: EchoServer
) -> None:
    async with FeedServer(rate=50) as feed:
        await service.open(feed.url, worker="other")  # something has to be written, or nobody knows
        await service.open(echo.url)
        pid = (await service.get("/v1/workers/main"))["pid"]
        async with full_disk(service):
            await wait_for(lambda: _unready(service))
            os.kill(pid, signal.SIGKILL)
            await wait_for(lambda: _worker(service, "main", pid=None))
            killing = asyncio.create_task(service.call("DELETE", "/v1/workers/main"))
            await wait_for(lambda: _worker(service, "main", status="Stopping"))
        assert (await asyncio.wait_for(killing, 60))["closed"] == 1
        await service.get("/v1/workers/main", 404)
        await service.open(echo.url)
        assert not _tracebacks(service)


async def test_a_worker_first_used_while_the_disk_is_full_starts_once_there_is_room(
    service: RunningService, echo: EchoServer
) -> None:
    await service.open(echo.url, worker="first")
    async with full_disk(service):
        # The one that finds out, and one that is told.
        for name in ("a", "b"):
            problem = await service.call("PUT", f"/v1/workers/{name}", 507)
            assert problem["type"] == "urn:mooring:problem:journal-unavailable"
        assert [record["name"] for record in (await service.get("/v1/workers"))["workers"]] == ["first"]
    for name in ("a", "b"):
        await wait_for(service.is_ready)
        await service.open(echo.url, worker=name)


async def test_a_worker_that_is_restarted_while_the_disk_is_full_starts_once_there_is_room(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_SUPERVISOR_RESTART_DELAY": "8"})  # or half of that
    record = await service.call("PUT", "/v1/workers/main", 201)
    os.kill(record["pid"], signal.SIGKILL)
    await wait_for(lambda: _worker(service, "main", status="Restarting"))
    async with full_disk(service):
        await wait_for(lambda: _unready(service))
        await wait_for(lambda: _worker(service, "main", status="Restarting"))
    again = await wait_for(lambda: _worker(service, "main", status="Running"))
    assert again["restarts"] == 1
    await service.open(echo.url)


async def test_a_stop_while_the_disk_is_full_takes_no_longer_and_the_next_start_tells_the_ends(
    service: RunningService,
) -> None:
    async with FeedServer(rate=100) as feed:
        record = await service.open(feed.url)
        async with full_disk(service):
            await wait_for(lambda: _unready(service))
            begun = time.monotonic()
            assert await service.stop() == 0
            print(f"stopped in {time.monotonic() - begun:.2f} s")
        assert service.worker_pids() == []
        await wait_for(lambda: feed.ends)
        assert feed.ends[0][1] == 1001
        await service.start()
        events = await service.events(record["id"], until="onTerminate")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert not _tracebacks(service)


async def test_killed_while_it_starts_a_worker_is_gone_and_who_waits_is_told(
    service: RunningService, echo: EchoServer
) -> None:
    for pause_s in (0.0, 0.05, 0.2, 0.3, 0.4):
        waiting = asyncio.create_task(service.call("POST", "/v1/connections", None, json={"url": echo.url}))
        await wait_for(lambda: _worker(service, "main"))
        await asyncio.sleep(pause_s)
        await service.call("DELETE", "/v1/workers/main")
        answer = await waiting
        assert answer["status"] in ("Connected", 409), answer
        await service.get("/v1/workers/main", 404)
        assert service.worker_pids() == []
    assert not _tracebacks(service)


@pytest.mark.parametrize("stopped", [False, True], ids=["by itself", "hard"])
async def test_a_create_whose_worker_is_killed_during_the_dial_was_terminated(
    start_service: StartService, stopped: bool
) -> None:
    """As one that is itself ended meanwhile (contract, section 4), whether or not its process could still say so."""
    deadlines = {"MOORING_SUPERVISOR_STOP_TIMEOUT": "1" if stopped else "60", "MOORING_SUPERVISOR_KILL_TIMEOUT": "1"}
    service = await start_service(env=deadlines)
    pid = (await service.call("PUT", "/v1/workers/main", 201))["pid"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        body = {"url": f"ws://127.0.0.1:{silent.getsockname()[1]}/", "connectTimeout": 60}
        waiting = asyncio.create_task(service.call("POST", "/v1/connections", 409, json=body))
        async with asyncio.timeout(60):
            peer, _ = await asyncio.get_running_loop().sock_accept(silent)
        with peer:
            if stopped:
                os.kill(pid, signal.SIGSTOP)
            killed = await service.call("DELETE", "/v1/workers/main", 200)
            answer = await waiting
    assert (answer["type"], [error["errCode"] for error in answer["errors"]]) == (
        "urn:mooring:problem:terminated",
        [302],
    )
    assert killed["closed"] == 1
    events = await service.events(answer["connection"], until="onTerminate")
    assert [event["kind"] for event in events] == ["onError", "onTerminate"]


async def test_an_answer_to_a_service_that_died_is_not_taken_for_one_of_the_next(start_service: StartService) -> None:
    service = await start_service(*options())
    await service.call("PUT", "/v1/workers/main", 201)
    async with held(service):
        await service.restart_after_kill()
        await wait_for(service.is_ready)
        # The first request of the new service, while the worker still owes an answer to the first of the old one.
        adding = asyncio.create_task(call(service, "add", 2, 3))
        await wait_for(lambda: _worker(service, "main", mailbox=1))
    assert await adding == 5


async def test_an_async_call_with_a_key_runs_once_although_the_service_died(start_service: StartService) -> None:
    service = await start_service(*options())
    calls = "/v1/workers/main/calls"
    await service.call("PUT", "/v1/workers/main", 201)
    headers = {"Idempotency-Key": "k1", "Prefer": "respond-async"}
    once = {"function": "remember", "params": ["once"]}
    await service.call("POST", calls, 202, json=once, headers=headers)
    # What a crash between dispatch and answer leaves: the key is claimed, and not answered.
    await service.kill()
    with contextlib.closing(apsw.Connection(str(service.state_dir / "journal.db"))) as connection:
        connection.execute("UPDATE answers SET answer = NULL").fetchall()
    await service.start()
    await wait_for(service.is_ready)
    await service.call("POST", calls, 202, json=once, headers=headers)
    assert (await seen_by(service)).count("once") == 1


async def test_a_full_outbox_while_the_service_is_away_pauses_the_peers_and_loses_nothing(
    start_service: StartService,
) -> None:
    service = await start_service(env={"MOORING_WORKER_OUTBOX_BYTES": "300000"})
    async with FeedServer(rate=2_500, size=8_000) as feed, Follower(service) as follower:
        record = await service.open(feed.url)
        await wait_for(lambda: follower.ledger.numbers.get(record["id"], 0) > 100)
        await service.kill()
        # Far above the bound: what the kernel's buffers take, and no more, is sent meanwhile.
        before = feed.sent["/"]

        async def stalled() -> bool:
            sent = feed.sent["/"]
            await asyncio.sleep(0.5)
            return feed.sent["/"] == sent > before

        await wait_for(stalled, what="the feed cannot send any more")
        (pid,) = service.worker_pids()
        await service.start()
        await feed.stop_sending()
        await wait_for(lambda: follower.ledger.numbers[record["id"]] == feed.sent["/"])
        assert service.worker_pids() == [pid]
        assert feed.ends == []
        assert follower.ledger.gaps == 0


WATCHDOG_S = 3.0  # a worker that stands still for longer, on a machine with much to do, is ended
WATCHFUL = {"MOORING_SUPERVISOR_WATCHDOG_TIMEOUT": f"{WATCHDOG_S}", "MOORING_SUPERVISOR_PROBE_INTERVAL": "0.2"}


async def test_a_hung_service_that_goes_on_repeats_nothing(start_service: StartService) -> None:
    service = await start_service(env=WATCHFUL)
    async with FeedServer(rate=500) as feed, Follower(service) as follower:
        record = await service.open(feed.url)
        await wait_for(lambda: follower.ledger.numbers.get(record["id"], 0) > 50)
        service.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.5 * WATCHDOG_S)
        service.process.send_signal(signal.SIGCONT)
        await feed.stop_sending()
        await wait_for(lambda: follower.ledger.numbers[record["id"]] == feed.sent["/"])
        assert feed.ends == []


async def test_a_service_that_stood_still_for_longer_than_its_watchdog_ends_no_worker(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env=WATCHFUL)
    records = [await service.open(echo.url, worker=name) for name in ("a", "b")]
    pids = sorted(service.worker_pids())
    for pause_s in (2 * WATCHDOG_S, 1.2 * WATCHDOG_S):
        service.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        service.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.3 * WATCHDOG_S)  # long enough to judge, and to end somebody
        assert sorted(service.worker_pids()) == pids
        for record in records:
            assert (await service.record(record["id"]))["status"] == "Connected"
            await service.send(record["id"], "still there")
    assert (await service.get("/v1/events?after=start&kind=workerExited"))["events"] == []


async def _queued_bytes(service: RunningService) -> float:
    async with service.client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("mooring_journal_queued_bytes "))


async def test_a_full_disk_under_messages_of_a_megabyte_costs_no_worker_and_no_message(
    start_service: StartService,
) -> None:
    # Less is too little where a worker takes a hundred megabytes a second beside other tests.
    service = await start_service(env={**WATCHFUL, "MOORING_SUPERVISOR_WATCHDOG_TIMEOUT": "6"})
    async with FeedServer(rate=50, size=1_000_000) as feed:
        records = [await service.open(f"{feed.url}{name}", worker=name) for name in ("a", "b")]
        pids = sorted(service.worker_pids())
        async with full_disk(service):

            async def queue_is_full() -> bool:
                return await _queued_bytes(service) > 64 * 1024 * 1024

            await wait_for(queue_is_full)
            cpu_s = (await service.get("/v1/workers/a"))["cpu"]

            async def still_told() -> bool:
                return (await service.get("/v1/workers/a"))["cpu"] > cpu_s

            await wait_for(still_told)  # what else travels on the link still passes
            await asyncio.sleep(9)  # longer than a worker has to answer
            assert sorted(service.worker_pids()) == pids
            assert feed.ends == []
        await feed.stop_sending()
        for record, name in zip(records, ("/a", "/b"), strict=True):

            async def all_stored(record: dict[str, Any] = record, name: str = name) -> bool:
                return (await service.record(record["id"]))["stats"]["messagesIn"] == feed.sent[name]

            await wait_for(all_stored)
        assert sorted(service.worker_pids()) == pids
        assert not _tracebacks(service)


async def test_what_a_silent_connection_has_sent_is_still_counted_after_a_restart(
    service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(f"{echo.url}silent")
    for _ in range(3):
        await service.send(record["id"], "x")
    await service.restart_after_kill()
    await wait_for(service.is_ready)

    async def counted() -> bool:
        stats = (await service.record(record["id"]))["stats"]
        return (stats["messagesOut"], stats["bytesOut"]) == (3, 3)

    await wait_for(counted)


async def test_a_second_service_leaves_the_socket_of_the_first_alone(
    start_service: StartService, tmp_path: Path
) -> None:
    service = await start_service(listen=f"unix:{tmp_path}/api.sock")
    path = service.url.removeprefix("unix:")
    second = subprocess.run(
        [*_serve(service), "--listen", service.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert f"in use by process {service.process.pid}" in second.stderr
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()


async def test_a_second_service_on_the_same_port_and_directory_names_the_holder(service: RunningService) -> None:
    second = subprocess.run(
        [*_serve(service), "--listen", f"127.0.0.1:{service.port}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"in use by process {service.process.pid}" in second.stderr


def _serve(service: RunningService) -> list[str]:
    return [sys.executable, "-m", "mooring_api", "serve", "--state-dir", str(service.state_dir)]


async def _once_there_is_room(service: RunningService, method: str, path: str, **kwargs: Any) -> Any:
    """Ask until the answer is no more that the disk does not keep up, which a slow one may say under such a flood."""

    async def answered() -> Any:
        answer = await service.call(method, path, None, **kwargs)
        return answer if answer.get("type") != "urn:mooring:problem:journal-unavailable" else None

    answer = await wait_for(answered, 60)
    assert "id" in answer, answer
    return answer


@rounds(3, 20)
async def test_what_is_opened_while_workers_are_being_adopted_lives(
    start_service: StartService, echo: EchoServer, rounds: int
) -> None:
    module = "tests.end_to_end.user_code"
    service = await start_service(
        "--function", f"open_until_told={module}:open_until_told", "--function", f"opened_so_far={module}:opened_so_far",
        "--app-dir", str(ROOT),
        env={"MOORING_LIMITS_MAX_CONNECTIONS": "100000", "MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": "100000"},
    )  # fmt: skip
    await service.call("POST", "/v1/workers/main/calls", json={"function": "open_until_told", "params": [echo.url]})
    by_request: list[int] = []
    for _ in range(rounds):
        # Events that must be sent again make the adoption long.
        body = {"url": f"{echo.url}push?count=30&size=1000000", "closeTimeout": 60}
        pushing = [await _once_there_is_room(service, "POST", "/v1/connections", json=body) for _ in range(2)]
        await service.restart_after_kill(0.5)
        until = time.monotonic() + 1.5

        some = len(by_request) + 20
        enough = some + 130  # all of them stay open, in this process too

        async def create(until: float = until, some: int = some, enough: int = enough) -> None:
            while len(by_request) < some or (time.monotonic() < until and len(by_request) < enough):
                async with service.client.post("/v1/connections", json={"url": echo.url}) as response:
                    if response.status == 201:
                        by_request.append((await response.json())["id"])

        await asyncio.gather(*(create() for _ in range(4)))
        for record in pushing:
            await _once_there_is_room(service, "DELETE", f"/v1/connections/{record['id']}")
    others = 10 * rounds  # at most: of those by request that a death has met, and those that were pushed
    await wait_for(lambda: echo.handshakes - len(by_request) - others > 55, what="as many are opened in the worker")
    inside = await service.call("POST", "/v1/workers/main/calls", json={"function": "opened_so_far"})
    opened = dict(inside["result"])
    print(f"{len(opened)} opened in the worker, {len(by_request)} by request")
    assert len(opened) > 50 and len(by_request) > 50
    recorded = {}
    after = 0
    while True:
        page = await service.get(f"/v1/connections?after={after}&limit=1000")
        recorded |= {record["id"]: record["status"] for record in page["connections"]}
        if not page.get("next"):
            break
        after = page["next"]
    assert {recorded[connection] for connection in by_request} == {"Connected"}
    assert {connection: recorded[connection] for connection in opened} == opened
