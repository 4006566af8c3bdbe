"""Messages that are sent: text, blobs, objects, lines; and a peer that does not read them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.servers import DeafServer, EchoServer, RawConnection, RawServer, frame


async def test_text_blob_and_object_go_both_ways(shared: RunningService, echo: EchoServer) -> None:
    text = await shared.open(echo.url)
    assert await shared.send(text["id"], "Grüße") == {"sent": 1, "bytes": 7}
    events = await shared.events(text["id"], count=2)
    assert events[1]["event"] == {"type": "message", "data": "Grüße"}

    blob = await shared.open(echo.url, dataType="blob")
    payload = bytes(range(256))
    await shared.send(blob["id"], payload, "application/octet-stream")
    events = await shared.events(blob["id"], count=2)
    assert base64.b64decode(events[1]["event"]["data"]) == payload
    assert events[1]["event"]["encoding"] == "base64"

    thing = await shared.open(echo.url, dataType="object")
    raw = b'{"big": 123456789012345678901234567890, "pi": 3.14159265358979323846,\n "x": [null, true]}'
    await shared.send(thing["id"], raw, "application/json")
    await shared.events(thing["id"], count=2)
    async with shared.client.get(f"/v1/connections/{thing['id']}/events?after=start") as response:
        body = await response.read()
    assert b'"big": 123456789012345678901234567890' in body
    assert b"3.14159265358979323846" in body
    assert [peer.received[0] for peer in echo.peers] == ["Grüße", payload, raw.decode()]


async def test_a_message_of_one_mebibyte_arrives_whole_both_ways(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    text = os.urandom(512 * 1024).hex()
    await shared.send(record["id"], text)
    events = await shared.events(record["id"], count=2)
    assert events[1]["event"]["data"] == text


async def test_ndjson_sends_one_object_per_line_as_it_arrives(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    seen_first = asyncio.Event()

    async def lines():
        yield b'{"n":1}\n{"n":2}\n'
        await wait_for(lambda: len(echo.peers[0].received) == 2)
        seen_first.set()
        yield b'{"n"'
        yield b":3}\n"
        yield b"[4]"

    answer = await shared.send(record["id"], lines(), "application/x-ndjson")
    assert answer == {"sent": 4, "bytes": 24}
    assert seen_first.is_set()
    await wait_for(lambda: len(echo.peers[0].received) == 4)
    assert echo.peers[0].received == ['{"n":1}', '{"n":2}', '{"n":3}', "[4]"]


async def test_ndjson_says_how_many_were_sent_before_a_bad_line(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    problem = await shared.send(record["id"], b'1\n2\n{"broken\n4\n', "application/x-ndjson", 400)
    assert problem["sent"] == 2
    assert "line 3" in problem["detail"]
    await wait_for(lambda: echo.peers[0].received == ["1", "2"])


async def test_ndjson_line_ends_and_empty_lines_are_not_sent(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    answer = await shared.send(record["id"], b'\r\n{"n": 1}\r\n\n \t\n[1e400]', "application/x-ndjson")
    assert answer == {"sent": 2, "bytes": 15}
    await wait_for(lambda: echo.peers[0].received == ['{"n": 1}', "[1e400]"])
    for headers in ({}, {"Idempotency-Key": "k"}):
        problem = await shared.send(record["id"], b"\n\n{x}\n", "application/x-ndjson", 400, **headers)
        assert "line 3" in problem["detail"] and problem["sent"] == 0


async def test_what_a_long_ndjson_line_costs_does_not_grow_with_the_chunks_it_comes_in(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url + "silent")
    used: list[float] = []

    async def line() -> AsyncIterator[bytes]:
        yield b'"' + b"x" * (12 * 1024 * 1024)
        used.append(_cpu_s(shared.process.pid))
        for _ in range(1_000):
            yield b"y"
            await asyncio.sleep(0.001)  # each in a packet of its own
        used.append(_cpu_s(shared.process.pid))
        yield b'"'

    assert (await shared.send(record["id"], line(), "application/x-ndjson"))["sent"] == 1
    assert used[1] - used[0] < 0.5, "seconds of CPU for a thousand bytes"


def _cpu_s(pid: int) -> float:
    return sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().split()[13:15]) / os.sysconf("SC_CLK_TCK")


async def test_ndjson_to_a_connection_that_closes_meanwhile_says_how_many_were_sent(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url)

    async def lines() -> AsyncIterator[bytes]:
        yield b"1\n2\n"
        await wait_for(lambda: len(echo.peers[0].received) == 2)
        await shared.call("DELETE", f"/v1/connections/{record['id']}")
        yield b"3\n"

    problem = await shared.send(record["id"], lines(), "application/x-ndjson", 410)
    assert problem["type"] == "urn:mooring:problem:connection-closed"
    assert problem["sent"] == 2
    # Told at once, before anything is streamed.
    await shared.send(record["id"], b"", "application/x-ndjson", 410)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"\xff", "text/plain", 400),
        (b"{", "application/json", 400),
        (b"NaN", "application/json", 400),
        (b"x", "image/png", 415),
        (b"x", "text/plain; charset=latin-1", 415),
    ],
)
async def test_a_body_that_is_not_what_its_type_says_is_refused(
    shared: RunningService, echo: EchoServer, body: bytes, kind: str, status: int
) -> None:
    record = await shared.open(echo.url)
    await shared.send(record["id"], body, kind, status)
    assert echo.peers[0].received == []


async def test_a_send_without_a_content_type_is_415(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    async with shared.client.post(
        f"/v1/connections/{record['id']}/messages", data=b"x", skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 415


async def test_a_peer_that_does_not_read_answers_503_and_memory_is_bounded(shared: RunningService) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await asyncio.sleep(600)

    async with RawServer(script) as server:
        record = await shared.open(server.url, sendTimeout=0.3)
        payload = b"x" * (1024 * 1024)
        statuses = []
        for _ in range(40):
            async with shared.client.post(
                f"/v1/connections/{record['id']}/messages", data=payload, headers={"Content-Type": "text/plain"}
            ) as response:
                statuses.append(response.status)
                if response.status == 503:
                    assert response.headers["Retry-After"]
                    assert (await response.json())["type"] == "urn:mooring:problem:peer-not-reading"
                    break
        assert statuses[-1] == 503
        assert (await shared.record(record["id"]))["status"] == "Connected"


@pytest.mark.parametrize("ping_interval", [0, 3])
async def test_peers_that_do_not_read_and_half_close_keep_no_socket_and_no_place(
    start_service: StartService, echo: EchoServer, ping_interval: float
) -> None:
    half_closes = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        connection.writer.transport.pause_reading()
        await half_closes.wait()
        connection.writer.write_eof()
        await asyncio.sleep(600)

    service = await start_service(env={"MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": "4"})
    async with RawServer(script) as server:
        options = {"sendTimeout": 0.2, "pingInterval": ping_interval, "pingTimeout": 120}
        opened = [(await service.open(server.url, **options))["id"] for _ in range(4)]
        pid = (await service.get("/v1/workers/main"))["pid"]
        for connection in opened:
            await _fill(service, connection)
        assert (await service.open(echo.url, 429))["type"] == "urn:mooring:problem:limit-reached"
        assert len(_sockets_to(pid, server.port)) == 4
        half_closes.set()
        for connection in opened:
            events = await service.events(connection, until="onTerminate")
            assert [event["kind"] for event in events] == ["onOpen", "onError", "onTerminate"]
            assert events[1]["event"]["errors"][0]["errCode"] == 204
        await wait_for(lambda: not _sockets_to(pid, server.port))
        for _ in range(4):
            await service.open(echo.url)


async def _fill(service: RunningService, connection: int) -> None:
    """Send until nothing more goes out to the peer."""
    for _ in range(40):
        async with service.client.post(
            f"/v1/connections/{connection}/messages", data=b"x" * 2**20, headers={"Content-Type": "text/plain"}
        ) as response:
            if response.status == 503:
                return
    raise AssertionError("everything goes out")


def _sockets_to(pid: int, port: int) -> list[str]:
    """Return the sockets that a process holds to a port of this machine."""
    inodes = {
        line.split()[9]
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        if line.split()[2].endswith(f":{port:04X}")
    }
    held = []
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(os.readlink(name))
    return [name for name in held if name.startswith("socket:[") and name[8:-1] in inodes]


@pytest.mark.parametrize(("how", "status"), [("reset", 410), ("protocol error", 409)])
async def test_a_send_that_waits_is_answered_when_the_connection_ends(
    shared: RunningService, how: str, status: int
) -> None:
    ends = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        await ends.wait()
        if how == "reset":
            connection.reset()
        else:
            connection.writer.write(frame(3, b""))
            await asyncio.sleep(600)

    async with RawServer(script) as server:
        record = await shared.open(server.url, sendTimeout=120)
        path = f"/v1/connections/{record['id']}/messages"
        while True:
            waiting = asyncio.create_task(
                shared.call("POST", path, None, data=b"x" * 1_000_000, headers={"Content-Type": "text/plain"})
            )
            if not (await asyncio.wait({waiting}, timeout=3))[0]:  # none of those that go out takes so long
                break
        ends.set()
        assert (await asyncio.wait_for(waiting, 60))["status"] == status


async def test_a_compressed_message_that_was_given_up_harms_none_that_follows(shared: RunningService) -> None:
    async with DeafServer() as server:
        record = await shared.open(server.url, compress=True, sendTimeout=0.3)

        async def send(payload: bytes) -> int:
            async with shared.client.post(
                f"/v1/connections/{record['id']}/messages",
                data=payload,
                headers={"Content-Type": "application/octet-stream"},
            ) as response:
                return response.status

        taken, status = [], 200
        while status == 200:
            payload = os.urandom(512 * 1024)  # nothing that deflate could make smaller
            status = await send(payload)
            if status == 200:
                taken.append(payload)
        assert status == 503
        given_up = payload
        server.reads.set()
        # Each repeats the end of the message that was given up: a deflate window that held it would refer to it.
        for number in range(3):
            taken.append(given_up[-10_000:] + bytes([number]))
            await wait_for(lambda: _sent(send, taken[-1]))
        await wait_for(lambda: server.received == taken)
        closed = await shared.call("DELETE", f"/v1/connections/{record['id']}")
        assert closed["terminate"]["wasClean"]


async def _sent(send: Callable[[bytes], Awaitable[int]], payload: bytes) -> bool:
    return await send(payload) == 200
