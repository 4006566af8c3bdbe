"""What becomes of what waits to be sent, and of requests, when processes die, are drained or stopped: never twice, never silently."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from tests.command_line import mooring
from tests.conftest import RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_kept import status_of
from tests.end_to_end.test_kept_faults import SLOW, _pid
from tests.end_to_end.test_queue import back, down
from tests.servers import EchoServer


async def test_the_death_of_its_worker_is_told_with_the_count_and_numbers_go_on(
    service: RunningService, echo: EchoServer
) -> None:
    kept = await down(service, echo, whenDown="queue")
    await service.send(kept, "one", status=202)
    await service.send(kept, "three", status=202)
    os.kill(await _pid(service), signal.SIGKILL)
    events = await service.events(kept, until="onReconnect", timeout_s=15)
    assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onUnsent", "onReconnect"]
    assert events[2]["event"] == {"type": "unsent", "reason": "workerDied", "count": 2, "bytes": 8, "messages": []}
    await echo.sockets[-1].close()
    await status_of(service, kept, "Reconnecting")
    assert (await service.send(kept, "next", status=202))["queueId"] == 3
    assert (await service.record(kept))["queued"] == {"messages": 1, "bytes": 4}


async def test_a_drain_and_an_ordered_stop_give_back_what_waits(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service()
    kept = await down(service, echo, whenDown="queue")
    await service.send(kept, "drained", status=202)
    await mooring(service, "workers", "drain", "main")
    events = await service.events(kept, until="onReconnect", timeout_s=15)
    unsent = events[2]["event"]
    assert (unsent["reason"], unsent["messages"]) == ("workerDied", [{"queueId": 1, "data": "drained"}])
    await echo.sockets[-1].close()
    await status_of(service, kept, "Reconnecting")
    await service.send(kept, "stopped", status=202)
    await service.stop()
    await service.start()
    events = await service.events(kept, until="onTerminate")
    assert [event["kind"] for event in events[-2:]] == ["onUnsent", "onTerminate"]
    assert events[-2]["event"]["messages"] == [{"queueId": 2, "data": "stopped"}]


async def test_a_queue_lives_on_while_the_service_is_dead_and_a_repeat_under_its_key_waits_once(
    service: RunningService, echo: EchoServer
) -> None:  # 38
    kept = await down(service, echo, whenDown="queue")
    first = await service.send(kept, "once", status=202, **{"Idempotency-Key": "k"})
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    again = await service.send(kept, "once", status=202, **{"Idempotency-Key": "k"})
    assert again == first
    assert (await service.record(kept))["queued"] == {"messages": 1, "bytes": 4}
    await back(service, kept)
    await service.send(kept, "end")
    events = await service.events(kept, count=5)
    assert [event["event"].get("data") for event in events[3:]] == ["once", "end"]


async def test_when_both_processes_die_the_end_tells_of_what_waited(service: RunningService, echo: EchoServer) -> None:
    kept = await down(service, echo, whenDown="queue")
    await service.send(kept, "gone", status=202)
    pid = await _pid(service)
    await service.kill()
    os.kill(pid, signal.SIGKILL)
    await service.start()
    events = await service.events(kept, until="onTerminate")
    assert [event["kind"] for event in events[-2:]] == ["onUnsent", "onTerminate"]
    assert (events[-2]["event"]["reason"], events[-2]["event"]["count"]) == ("workerDied", 1)


async def test_while_no_process_holds_it_a_message_cannot_wait(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text("[supervisor]\nrestart_budget = 1\nrestart_window = 600\n")
    service = await start_service("--config", str(config))
    kept = (await service.open(echo.url, reconnect=SLOW, whenDown="queue"))["id"]
    for _ in range(2):
        await status_of(service, kept, "Connected")
        os.kill(await _pid(service), signal.SIGKILL)
        await status_of(service, kept, "Reconnecting")

    async def failed() -> bool:
        return (await service.get("/v1/workers/main"))["status"] == "Failed"

    await wait_for(failed)
    refused = await service.send(kept, "x", status=503)
    assert refused["type"].endswith(":unavailable")
    assert await service.call("DELETE", f"/v1/connections/{kept}/queue", 200) == {"messages": 0, "bytes": 0}


@rounds(4, 60)
async def test_nothing_is_sent_twice_whoever_dies_when(
    start_service: StartService, echo: EchoServer, tmp_path: Path, rounds: int
) -> None:
    """Messages are numbered; the peer cuts, the worker or the service is killed at any moment while they are sent and repeated."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    config = tmp_path / "mooring.toml"
    config.write_text("[supervisor]\nrestart_budget = 1000\nrestart_delay_max = 0.1\n")
    service = await start_service("--config", str(config))
    kept = (await service.open(echo.url, reconnect={"minDelay": 0.05, "maxDelay": 0.1}, whenDown="queue"))["id"]
    number, told = 0, Counter[int]()
    for _ in range(rounds):
        before = (await service.record(kept))["socket"]
        who = chance.choice(["peer", "worker", "service"])
        sends = [asyncio.create_task(_send(service, kept, number + index)) for index in range(10)]
        number += len(sends)
        await asyncio.sleep(chance.random() * 0.05)
        if who == "peer":
            for socket in echo.sockets:
                if not socket.closed:
                    await socket.close()
        elif who == "worker":
            os.kill(await wait_for(lambda: _running(service), 10), signal.SIGKILL)
        else:
            await service.restart_after_kill()
            await wait_for(service.is_ready)
        told.update(await asyncio.gather(*sends))
        await wait_for(lambda: _ready_again(service, kept, before + (who != "service")), 15)  # noqa: B023 - it is awaited here
    await _send(service, kept, number)
    await wait_for(lambda: any(f"message {number}" in peer.received for peer in echo.peers))
    arrived = Counter(text for peer in echo.peers for text in peer.received)
    assert max(arrived.values()) == 1, f"seed {seed}: {arrived.most_common(3)}"
    print(f"{number} messages: {len(arrived) - 1} arrived; {dict(told)}")


async def _ready_again(service: RunningService, kept: int, socket: int) -> bool:
    record = await service.record(kept)
    return record["status"] == "Connected" and record["socket"] >= socket


async def _running(service: RunningService) -> int | None:
    """Return the pid of the worker, None while it is restarted."""
    pid: int | None = (await service.get("/v1/workers/main"))["pid"]
    return pid


async def _send(service: RunningService, kept: int, number: int) -> int:
    """Send a message under its own key until there is an answer; return its status."""
    last: Any = None
    for _ in range(200):
        try:
            async with service.client.post(
                f"/v1/connections/{kept}/messages",
                data=f"message {number}",
                headers={"Content-Type": "text/plain", "Idempotency-Key": f"key-{number}"},
            ) as response:
                body: Any = await response.json()
                last = body
                if response.status in (200, 202) or body["type"].rpartition(":")[2] in (
                    "send-uncertain",
                    "worker-died",
                ):
                    return response.status
        except (OSError, aiohttp.ClientError, RuntimeError) as exc:  # the service is being killed: it is asked again
            last = exc
        await asyncio.sleep(0.05)
    raise AssertionError(f"message {number} was never answered: {last}")
