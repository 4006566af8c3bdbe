"""What becomes of what waits to be sent, and of requests, when processes die, are drained or stopped: never twice, never silently."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.command_line import mooring
from tests.conftest import ROOT, RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, status_of
from tests.end_to_end.test_kept_faults import _pid
from tests.end_to_end.test_metrics import metrics
from tests.end_to_end.test_queue import back, down
from tests.servers import EchoServer, RawConnection, RawServer


async def test_the_death_of_its_worker_is_told_with_the_count_and_numbers_go_on(
    service: RunningService, echo: EchoServer
) -> None:
    kept = await down(service, echo, whenDown="queue")
    await service.send(kept, "one", status=202)
    await service.send(kept, "three", status=202)
    os.kill(await _pid(service), signal.SIGKILL)
    events = await service.events(kept, until="onReconnect")
    assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onUnsent", "onReconnect"]
    assert events[2]["event"] == {"type": "unsent", "reason": "workerDied", "count": 2, "bytes": 8, "messages": []}
    await echo.sockets[-1].close(code=1013)
    await status_of(service, kept, "Reconnecting")
    assert (await service.send(kept, "next", status=202))["queueId"] == 3
    assert (await service.record(kept))["queued"] == {"messages": 1, "bytes": 4}
    assert (await metrics(service))['mooring_unsent_total{"reason": "workerDied", "worker": "main"}'] == 2


async def test_messages_wait_also_while_a_new_process_makes_the_handler_again(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start_service("--app-dir", str(ROOT), "--handler", "TakesLong=tests.end_to_end.kept_code:TakesLong")
    once = {"name": "TakesLong", "params": {"path": str(tmp_path / "made")}}
    options = {"reconnect": {"minDelay": 0.05}, "whenDown": "queue"}
    kept = (await service.open(echo.url, handler=once, **options))["id"]
    before = await _pid(service)
    os.kill(before, signal.SIGKILL)
    await wait_for(lambda: _running_but(service, before))
    answers = [await wait_for(lambda: _waits(service, kept, text)) for text in ("one", "two")]  # noqa: B023 - it is awaited here
    assert [answer["queueId"] for answer in answers] == [1, 2]
    assert (await service.record(kept))["queued"] == {"messages": 2, "bytes": 6}
    (tmp_path / "made.go").touch()
    await service.events(kept, until="onReconnect")
    await wait_for(lambda: echo.peers[-1].received == ["one", "two"])

    async def nothing_waits() -> bool:
        return bool((await service.record(kept))["queued"] == {"messages": 0, "bytes": 0})

    await wait_for(nothing_waits)  # the peer has them before the service is told


async def _running_but(service: RunningService, before: int) -> bool:
    return (await service.get("/v1/workers/main"))["pid"] not in (None, before)


async def _waits(service: RunningService, kept: int, text: str) -> dict[str, Any] | None:
    """Send a message; None: its worker was not there yet."""
    headers = {"Content-Type": "text/plain"}
    async with service.client.post(f"/v1/connections/{kept}/messages", data=text, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status in (202, 503), answer
        return answer if response.status == 202 else None


async def test_a_drain_and_an_ordered_stop_give_back_what_waits(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service()
    kept = await down(service, echo, whenDown="queue")
    await service.send(kept, "drained", status=202)
    await mooring(service, "workers", "drain", "main")
    events = await service.events(kept, until="onReconnect")
    unsent = events[2]["event"]
    assert (unsent["reason"], unsent["messages"]) == ("workerDied", [{"queueId": 1, "data": "drained"}])
    await echo.sockets[-1].close(code=1013)
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
    kept = (await service.open(echo.url, reconnect=STAYS_DOWN, whenDown="queue"))["id"]
    for _ in range(2):
        await status_of(service, kept, "Connected")
        events = await service.events(kept)
        os.kill(await _pid(service), signal.SIGKILL)
        await service.events(kept, count=len(events) + 1)  # it is lost, and may be back before anybody looks

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
            os.kill(await wait_for(lambda: _running(service)), signal.SIGKILL)
        else:
            await service.restart_after_kill()
            await wait_for(service.is_ready)
        told.update(await asyncio.gather(*sends))
        await wait_for(lambda: _ready_again(service, kept, before + (who != "service")))  # noqa: B023 - it is awaited here
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
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
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


@rounds(2, 30)
@pytest.mark.parametrize("when_down", ["queue", "fail"])
async def test_a_cut_in_the_middle_of_a_hundred_frames(
    service: RunningService, when_down: str, rounds: int
) -> None:  # 37
    """The peer ends its side at any byte and reads on to the end: what was told as sent is there, nothing is there twice."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    arrived: list[bytes] = []
    limit = 0

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        reader, writer, data = connection.reader, connection.writer, b""
        cut = False
        while more := await reader.read(65_536):
            data += more
            if limit and len(data) > limit and not cut:
                cut = True
                writer.write_eof()
            await asyncio.sleep(0.0005)
        arrived.extend(_frames_of(data))

    async with RawServer(script) as server:
        kept = (await service.open(server.url, reconnect={"minDelay": 0.05, "maxDelay": 0.05}, whenDown=when_down))[
            "id"
        ]
        for count in range(rounds):
            arrived.clear()
            limit = chance.randrange(70 * 40_000)
            payloads = [b"%d %d " % (count, index) + bytes(40_000).replace(b"\0", b"x") for index in range(100)]
            told = await asyncio.gather(*(_told(service, kept, payload) for payload in payloads))
            limit = 0
            await wait_for(lambda: _nothing_waits(service, kept))  # else the rest goes over the socket that follows
            await service.call("POST", f"/v1/connections/{kept}/reconnect", 200, headers={"Prefer": "wait=60"})
            taken = {payload for payload, answer in zip(payloads, told, strict=True) if answer in ("sent", "queued")}
            await wait_for(lambda: taken <= set(arrived), what=f"what was taken arrives, seed {seed}")  # noqa: B023 - it is awaited here
            there = Counter(arrived)
            print(Counter(told))
            for payload, answer in zip(payloads, told, strict=True):
                if answer in ("sent", "queued"):
                    assert there[payload] == 1, f"seed {seed}: {payload[:8]!r} was {answer}"
                elif answer == "uncertain":
                    assert there[payload] <= 1, f"seed {seed}"
                else:
                    assert there[payload] == 0, f"seed {seed}: {payload[:8]!r} was refused"


@rounds(3, 40)
async def test_a_cut_in_the_middle_of_a_stream_of_lines(service: RunningService, rounds: int) -> None:
    """As above: those that are told as sent are there, and beyond those that may be there is none."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    arrived: list[bytes] = []
    ended = asyncio.Event()
    limit = 0

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        reader, writer, data = connection.reader, connection.writer, b""
        cut = False
        while more := await reader.read(65_536):
            data += more
            if len(data) > limit and not cut:
                cut = True
                writer.write_eof()
            await asyncio.sleep(0.0005)
        arrived.extend(_frames_of(data))
        ended.set()

    lines = [b'"%d %s"' % (number, b"x" * 40_000) for number in range(200)]
    async with RawServer(script) as server:
        for _ in range(rounds):
            arrived.clear()
            ended.clear()
            limit = chance.randrange(2_000_000)
            kept = (await service.open(server.url, reconnect={"minDelay": 3600, "maxDelay": 3600}))["id"]
            path = f"/v1/connections/{kept}/messages"
            headers = {"Content-Type": "application/x-ndjson"}
            async with service.client.post(path, data=io.BytesIO(b"\n".join(lines)), headers=headers) as response:
                answer: Any = await response.json()
            await asyncio.wait_for(ended.wait(), 60)
            sent, uncertain = answer["sent"], answer.get("uncertain", 0)
            print(response.status, sent, uncertain, len(arrived))
            assert arrived == lines[: len(arrived)], f"seed {seed}: in order, and each once"
            assert sent <= len(arrived) <= sent + uncertain, f"seed {seed}: {answer}"
            await service.call("DELETE", f"/v1/connections/{kept}", 200)


async def _nothing_waits(service: RunningService, kept: int) -> bool:
    record = await service.record(kept)
    return record["status"] == "Connected" and not (record.get("queued") or {}).get("messages")


async def _told(service: RunningService, kept: int, payload: bytes) -> str:
    async with service.client.post(
        f"/v1/connections/{kept}/messages", data=payload, headers={"Content-Type": "text/plain"}
    ) as response:
        body: Any = await response.json()
    if response.status in (200, 202):
        return "sent" if response.status == 200 else "queued"
    name: str = body["type"].rpartition(":")[2]
    return {"send-uncertain": "uncertain"}.get(name, name)


def _frames_of(data: bytes) -> list[bytes]:
    """Return the payloads of the whole masked messages in `data`."""
    found = []
    while len(data) >= 2:
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + 4 + size:
            break
        mask = data[at : at + 4] * (size // 4 + 1)
        payload = data[at + 4 : at + 4 + size]
        if data[0] & 0x0F in (1, 2):
            found.append((int.from_bytes(payload, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big"))
        data = data[at + 4 + size :]
    return found
