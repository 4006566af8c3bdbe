"""What each fault may cost, caused on purpose: processes killed under load, subscribers cut off, a disk that is full.

A fake server numbers its messages; a subscriber holds what it gets against a ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

from tests.conftest import ROOT, RunningService, StartService, rounds, wait_for
from tests.end_to_end.figures import Watch
from tests.follower import Follower
from tests.servers import EchoServer, FeedServer, RawConnection, RawServer


@pytest.mark.alone
@pytest.mark.parametrize(
    ("pause_s", "level"), [(0.5, "process"), (0.5, "power"), pytest.param(5.0, "process", marks=pytest.mark.long)]
)
async def test_a_killed_service_closes_nothing_and_loses_nothing(
    start_service: StartService, pause_s: float, level: str
) -> None:
    service = await start_service(env={"MOORING_JOURNAL_LEVEL": level})
    async with FeedServer(rate=250) as feed, Follower(service) as follower:
        ledger = follower.ledger
        opened = [await service.open(f"{feed.url}{n}", worker=f"w{n % 4}") for n in range(8)]
        await wait_for(lambda: len(ledger.numbers) == 8 and min(ledger.numbers.values()) > 200)
        await service.kill()
        await asyncio.sleep(pause_s)
        watch = Watch(service, service.worker_pids())
        await service.start()
        assert watch.took_s() < 2, "until the API is ready"
        await wait_for(service.is_ready)
        assert watch.took_s() < 3, "until all are adopted"
        before = dict(ledger.numbers)
        await wait_for(lambda: all(ledger.numbers[c] > number + 100 for c, number in before.items()))
        await feed.stop_sending()
        names = {record["id"]: f"/{n}" for n, record in enumerate(opened)}
        await wait_for(lambda: all(ledger.numbers[c] == feed.sent[name] for c, name in names.items()))
        assert ledger.ended == {}
        assert ledger.gaps == 0
        assert feed.ends == [], "the server saw no close"
        statuses = {r["status"] for r in (await service.get("/v1/connections"))["connections"]}
        assert statuses == {"Connected"}
        assert follower.breaks > 0


@rounds(3, 20)
async def test_killed_again_and_again_the_service_still_loses_nothing(start_service: StartService, rounds: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    service = await start_service()
    async with FeedServer(rate=300) as feed, Follower(service) as follower:
        ledger = follower.ledger
        opened = [await service.open(f"{feed.url}{n}", worker=f"w{n % 2}") for n in range(4)]
        for _ in range(rounds):
            await asyncio.sleep(chosen.uniform(0.0, 0.4))
            await service.kill()
            await asyncio.sleep(chosen.uniform(0.0, 0.3))
            await service.start()
        await wait_for(service.is_ready)
        await feed.stop_sending()
        names = {record["id"]: f"/{n}" for n, record in enumerate(opened)}
        await wait_for(lambda: all(ledger.numbers.get(c) == feed.sent[name] for c, name in names.items()))
        assert ledger.ended == {}
        assert feed.ends == []


@pytest.mark.alone
async def test_both_killed_each_connection_gets_its_end_after_the_restart(service: RunningService) -> None:
    async with FeedServer(rate=100) as feed, Follower(service) as follower:
        opened = [await service.open(f"{feed.url}{n}", worker=f"w{n % 2}") for n in range(4)]
        await wait_for(lambda: len(follower.ledger.numbers) == 4)
        pids = service.worker_pids()
        assert len(pids) == 2
        await service.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        watch = Watch(service)
        await service.start()
        await wait_for(lambda: len(follower.ledger.ended) == 4)
        assert watch.took_s() < 2, "until every onTerminate is told"
        for record in opened:
            assert follower.ledger.ended[record["id"]]["code"] == 1006
            assert (await service.record(record["id"]))["status"] == "Closed"


@rounds(50, 400, name="disconnects")
async def test_random_disconnects_of_a_subscriber_cost_no_event(service: RunningService, disconnects: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    async with FeedServer(rate=500) as feed, Follower(service) as follower:
        opened = [await service.open(f"{feed.url}{n}") for n in range(4)]
        while follower.breaks < disconnects:
            await asyncio.sleep(chosen.uniform(0.001, 0.05))
            follower.drop()
        await feed.stop_sending()
        names = {record["id"]: f"/{n}" for n, record in enumerate(opened)}
        await wait_for(lambda: all(follower.ledger.numbers.get(c) == feed.sent[name] for c, name in names.items()))
        assert follower.ledger.gaps == 0


@rounds(8, 20, name="services")
async def test_of_many_services_started_at_once_on_one_directory_one_runs(
    start_service: StartService, services: int
) -> None:
    service = await start_service()
    await service.stop()
    command = [sys.executable, "-m", "mooring_api", "serve", "--listen", "127.0.0.1:0", "--state-dir", str(service.state_dir)]  # fmt: skip
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(services)
    ]
    try:

        def ended() -> list[subprocess.Popen[str]]:
            return [process for process in processes if process.poll() is not None]

        await wait_for(lambda: len(ended()) == services - 1, 60)
        (winner,) = (process for process in processes if process.poll() is None)
        assert "mooring is ready" in (await asyncio.to_thread(winner.stdout.readline))
        for process in ended():
            assert process.returncode == 1
            errors = process.stderr.read()
            assert "Traceback" not in errors
            assert str(winner.pid) in errors, f"the holder is named: {errors}"
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            await asyncio.to_thread(process.communicate)


async def test_a_disk_that_is_full_stops_nothing_and_work_resumes_by_itself(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    async with FeedServer(rate=100) as feed, Follower(service) as follower:
        record = await service.open(feed.url)
        await wait_for(lambda: follower.ledger.numbers.get(record["id"], 0) > 20)
        # No file of this process may grow: what a full disk is to it.
        pid = service.process.pid
        wal = service.state_dir / "journal.db-wal"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, resource.RLIM_INFINITY))
        try:
            unready = await wait_for(lambda: _unready(service))
            assert any(reason.startswith("journal: ") for reason in unready["reasons"])
            problem = await service.open(echo.url, 507)
            assert problem["type"] == "urn:mooring:problem:journal-unavailable"
            assert echo.peers == [], "nothing was started"
            assert (await service.send(record["id"], "x", status=507))["status"] == 507
            await service.call("DELETE", f"/v1/connections/{record['id']}", 507)
            assert (await service.record(record["id"]))["status"] == "Connected", "reading goes on"
            assert feed.ends == []
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await wait_for(service.is_ready)
        await service.open(echo.url)
        await feed.stop_sending()
        await wait_for(lambda: follower.ledger.numbers[record["id"]] == feed.sent["/"])


async def _unready(service: RunningService) -> dict[str, list[str]] | None:
    async with service.client.get("/readyz") as response:
        return await response.json() if response.status == 503 else None


@pytest.mark.timeout(300)
@rounds(14_000, 60_000, name="events")  # of 16 kB each: far more than may be held
async def test_a_subscriber_that_does_not_read_costs_no_memory_and_gets_everything_later(
    start_service: StartService, events: int
) -> None:
    service = await start_service()
    async with FeedServer(rate=2_500, size=16_000) as feed:
        opened = [await service.open(f"{feed.url}{n}") for n in range(2)]
        # A subscriber with a stopped reader, and the deadline of a write far away.
        _, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**16)
        writer.write(
            f"GET /v1/events?after=start HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
            f"Authorization: Bearer {service.token}\r\nAccept: application/x-ndjson\r\n\r\n".encode()
        )
        await wait_for(lambda: sum(feed.sent.values()) > 2_000)
        early = _rss(service.process.pid)
        await wait_for(lambda: sum(feed.sent.values()) > 2_000 + events, 240)
        late = _rss(service.process.pid)
        print(f"service rss {early / 2**20:.0f} MiB, then {late / 2**20:.0f} MiB")
        assert late < early + 128 * 2**20
        await feed.stop_sending()
        writer.transport.abort()
        async with Follower(service) as follower:
            names = {record["id"]: f"/{n}" for n, record in enumerate(opened)}
            await wait_for(
                lambda: all(follower.ledger.numbers.get(c) == feed.sent[name] for c, name in names.items()), 60
            )
            assert follower.ledger.gaps == 0


async def test_a_subscriber_that_does_not_read_is_cut_off_and_may_resume(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_API_WRITE_TIMEOUT": "0.5"})
    async with FeedServer(rate=5_000, size=2_000) as feed:
        record = await service.open(feed.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**16)
        writer.write(
            f"GET /v1/events?after=start HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
            f"Authorization: Bearer {service.token}\r\nAccept: application/x-ndjson\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")  # it is one from here on, and may be none a moment later
        await wait_for(lambda: _subscribers(service, 0))
        data = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(2**20):
                data += chunk
        writer.close()
        last = [line for line in data.split(b"\n") if line.startswith(b'{"id":"') and line.endswith(b"}}")][-1]
        await feed.stop_sending()
        async with Follower(service, f"/v1/connections/{record['id']}/events") as follower:
            follower.last_id = json.loads(last)["id"]
            follower.ledger.seqs[record["id"]] = json.loads(last)["seq"]
            follower.ledger.numbers[record["id"]] = int(json.loads(last)["event"]["data"].rstrip("."))
            await wait_for(lambda: follower.ledger.numbers[record["id"]] == feed.sent["/"])


async def _subscribers(service: RunningService, count: int) -> bool:
    async with service.client.get("/metrics") as response:
        return f"mooring_subscribers {count}.0" in await response.text()


def _rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.alone
async def test_stop_with_500_connections_and_50_subscribers_ten_of_them_deaf(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_API_WRITE_TIMEOUT": "600"})
    numbers = iter(range(500))

    async def some() -> None:
        for n in numbers:
            await service.open(echo.url, worker=f"w{n % 4}")

    await asyncio.gather(*(some() for _ in range(32)))
    streams = []
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {service.token}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for _ in range(40):
            response = await session.get(f"{service.url}/v1/events?after=start", headers=headers)
            streams.append(asyncio.create_task(response.read()))
        for _ in range(10):
            streams.append(await session.get(f"{service.url}/v1/events?after=start", headers=headers))  # never read
        begun = time.monotonic()
        code = await service.stop()
        took = time.monotonic() - begun
        print(f"stopped in {took:.2f} s")
        assert code == 0 and took < 10, "not at the deadline of a write"
        texts = await asyncio.gather(*streams[:40])
        assert all(text.count(b"event: onTerminate") == 500 for text in texts), "streams carry every end"
    await wait_for(lambda: all(peer.close_code == 1001 for peer in echo.peers))
    assert service.worker_pids() == []


@pytest.mark.alone
async def test_a_second_signal_ends_at_once(start_service: StartService) -> None:
    service = await start_service("--handler", "stubborn=tests.end_to_end.user_code:Stubborn", "--app-dir", str(ROOT))
    async with FeedServer(rate=50) as feed:
        await service.open(feed.url, handler={"name": "stubborn"})
        await wait_for(lambda: _busy(service))
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        code = await service.stop(number=signal.SIGTERM)
        assert time.monotonic() - begun < 1
        assert code == 128 + signal.SIGTERM


async def _busy(service: RunningService) -> object:
    return (await service.get("/v1/workers/main"))["running"]


@rounds(600, 2_000, name="connections")
async def test_many_connections_leave_nothing_behind(
    start_service: StartService, echo: EchoServer, connections: int
) -> None:
    service = await start_service(env={"MOORING_RETENTION_CLOSED_CONNECTIONS": "50"})
    numbers = iter(range(connections))
    manners = itertools.cycle([RawConnection.reset, _close_its_side, _say_nothing, _close_without_a_word])

    async def be_rude(connection: RawConnection) -> None:
        await connection.accept()
        next(manners)(connection)
        await connection.reader.read()  # and never an answer to our close

    async def cycle(rude: RawServer) -> None:
        for number in numbers:
            # Every tenth peer has no manners.
            url = echo.url if number % 10 else f"ws://127.0.0.1:{rude.port}/"
            record = await service.open(url, None, closeTimeout=0.2)
            if "id" in record:
                await service.call("DELETE", f"/v1/connections/{record['id']}")

    async def warm_up() -> None:
        for _ in range(10):
            record = await service.open(echo.url)
            await service.call("DELETE", f"/v1/connections/{record['id']}")

    await asyncio.gather(
        *(warm_up() for _ in range(16))
    )  # as many at a time as below: threads are made when they are needed
    pids = [service.process.pid, *service.worker_pids()]
    before = [_resources(pid) for pid in pids]
    async with RawServer(be_rude) as rude:
        await asyncio.gather(*(cycle(rude) for _ in range(16)))

    def settled() -> bool:
        return all(
            _resources(pid)[0] <= was[0] + 20 and _resources(pid)[1] <= was[1]
            for pid, was in zip(pids, before, strict=True)
        )

    await wait_for(settled, what="descriptors and threads are back")
    after = [_resources(pid) for pid in pids]
    print(f"descriptors, threads, rss: {before} -> {after}")
    for was, now in zip(before, after, strict=True):
        assert now[2] < was[2] + 48 * 2**20
    listed = (await service.get("/v1/connections?limit=1000"))["connections"]
    assert all(record["status"] == "Closed" for record in listed)


def _close_its_side(connection: RawConnection) -> None:
    connection.writer.write_eof()


def _say_nothing(connection: RawConnection) -> None:
    pass


def _close_without_a_word(connection: RawConnection) -> None:
    connection.writer.close()


def _resources(pid: int) -> tuple[int, int, int]:
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), _rss(pid)
