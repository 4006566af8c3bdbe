"""What is large, long, silent or wrong on its way between nodes: each a defined answer."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_kit.running import is_engine_down, running_services
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, wait_for
from tests.end_to_end.test_queue import down
from tests.servers import EchoServer

WAIT_S = 90.0
LARGE_BYTES = 16 * 1024 * 1024


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, "ab", dead_after=60) as found:
        yield found


async def test_a_message_of_16_mebibytes_goes_through_another_node_and_comes_back_at_each_in_its_order(
    nodes: dict[str, RunningService],
) -> None:
    a, b = nodes.values()
    async with EchoServer() as echo:
        one = (await a.open(echo.url, maxMessageSize=2 * LARGE_BYTES, sendTimeout=60))["id"]
        await b.send(one, b"before")
        assert await b.send(one, b"x" * LARGE_BYTES) == {"sent": 1, "bytes": LARGE_BYTES}
        lines = b"".join(b'{"n":%d,"pad":"%s"}\n' % (n, b"y" * 100_000) for n in range(60))  # 6 MB, as they come
        assert (await b.send(one, lines, "application/x-ndjson"))["sent"] == 60
        await b.send(one, b"behind")
        too_large = await b.send(one, b"x" * (LARGE_BYTES + 1), status=413)
        assert too_large["type"].endswith("too-large")

        async def all_came_back() -> bool:
            return (await b.get(f"/v1/connections/{one}"))["stats"]["messagesIn"] == 63

        await wait_for(all_came_back, WAIT_S)
        for service in (a, b):
            found: list[str] = []

            async def all_are_shown(service: RunningService = service, found: list[str] = found) -> bool:
                found.clear()
                after = "start"
                while True:
                    path = f"/v1/connections/{one}/events?kind=onMessage&limit=20&after={after}"
                    page = await service.get(path)
                    if not page["events"]:
                        return len(found) == 63
                    found += [event["event"]["data"] for event in page["events"]]
                    after = page["next"]

            await wait_for(all_are_shown, WAIT_S)
            assert (found[0], len(found[1]), found[-1]) == ("before", LARGE_BYTES, "behind")
            assert [line[:9].partition(",")[0] for line in found[2:62]] == [f'{{"n":{n}' for n in range(60)]


async def test_a_node_that_is_silent_or_gone_is_told_as_such_and_names_of_any_form_find_their_worker(
    nodes: dict[str, RunningService],
) -> None:
    a, b = nodes.values()
    async with EchoServer() as echo:
        for worker in ("a.b-c_d.e", "w" * 63):  # they stand in no subject
            made = await a.open(echo.url, worker=worker)
            assert (await b.open(echo.url, worker=worker))["node"] == made["node"] == "a"

            async def has_both(worker: str = worker) -> bool:  # as it says itself, or the log
                told = await b.get(f"/v1/workers/{worker}")
                assert told.get("stale") or told["connections"] == 2, told
                return bool(told["connections"] == 2)

            await wait_for(has_both, WAIT_S)
        one = made["id"]
        a.process.send_signal(signal.SIGSTOP)
        try:
            silent = await b.call("POST", f"/v1/connections/{one}/requests?timeout=0.1", 504, json={"n": 1})
            assert (silent["type"].rpartition(":")[2], silent["node"]) == ("node-silent", "a")
            assert "the outcome is not known; the same Idempotency-Key is safe" in silent["detail"]
        finally:
            a.process.send_signal(signal.SIGCONT)
        await wait_for(a.is_ready, WAIT_S)
        await a.kill()

        async def it_is_gone() -> bool:
            async with b.client.delete(f"/v1/connections/{one}") as response:
                told = await response.json()
                assert response.status in (503, 504), told
                if is_engine_down(response.status, told):
                    return False
                if response.status == 503:
                    assert (told["type"].rpartition(":")[2], response.headers["Retry-After"]) == (
                        "node-unreachable",
                        "5",
                    )
                return response.status == 503

        await wait_for(it_is_gone, WAIT_S)


Told = tuple[int, dict[str, Any]]


async def _lines(holder: RunningService, connection: int, pieces: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    """Yield each piece once what is before it was sent, or waits: so it is passed on by itself."""
    lines = 0
    for piece in pieces:
        if lines:

            async def is_done(lines: int = lines) -> bool:
                record = await holder.record(connection)
                return record["stats"]["messagesOut"] + record.get("queued", {"messages": 0})["messages"] == lines

            await wait_for(is_done, WAIT_S)
        yield piece
        lines += len(piece.split())


async def _stream(
    nodes: dict[str, RunningService], make: Callable[[], Awaitable[int]], *pieces: bytes, **headers: str
) -> tuple[int, Told]:
    """Stream lines to a connection of `a` through `b`; begun anew, with another connection, if the engine was too slow for a moment."""
    a, b = nodes.values()
    while True:
        connection = await make()
        await b.record(connection)  # it knows of it
        path, kind = f"/v1/connections/{connection}/messages", {"Content-Type": "application/x-ndjson", **headers}
        async with b.client.post(path, data=_lines(a, connection, pieces), headers=kind) as response:
            told = await response.json()
            if not is_engine_down(response.status, told):
                return connection, (response.status, told)


async def test_a_stream_of_lines_through_another_node_is_told_as_one(nodes: dict[str, RunningService]) -> None:
    a, _ = nodes.values()
    async with EchoServer() as echo:

        async def opened() -> int:
            connection: int = (await a.open(echo.url))["id"]
            return connection

        _, (status, wrong) = await _stream(nodes, opened, b"1\n2\n", b"\n\n3\n", b"4\nno\n5\n")
        assert (status, wrong["sent"]) == (400, 4)
        assert wrong["detail"].startswith("line 7 is not JSON"), "counted from the beginning of the body"
        _, told = await _stream(nodes, opened, b"1\n2\n", b"3\n", b"4")
        assert told == (200, {"sent": 4, "bytes": 4})
        packed = {"Content-Encoding": "gzip"}
        _, (status, refused) = await _stream(nodes, opened, b"1\n", b"2\n", **packed)
        assert status == 415 and refused["type"].endswith("unsupported-media-type")

        kept, (status, waits) = await _stream(nodes, lambda: down(a, echo, whenDown="queue"), b"1\n", b"2\n", b"3\n")
        assert (status, waits["queued"], waits["bytes"], waits["queueId"]) == (202, 3, 3, 1), "of the first that waits"
        later = await a.send(kept, "4", status=202)
        assert later["queueId"] == 4 and waits["expiresAt"] < later["expiresAt"]


@pytest.mark.parametrize("number", ["nan", "inf", "-100", "1e308", "601", "x"])
async def test_a_time_that_is_none_is_refused_through_another_node_as_here(
    nodes: dict[str, RunningService], number: str
) -> None:
    a, b = nodes.values()
    async with EchoServer() as echo:
        one = (await a.open(echo.url, requests="cdp"))["id"]
        await b.record(one)
        for service in (a, b):
            told = await service.call("POST", f"/v1/connections/{one}/requests?timeout={number}", 422, json={})
            assert told["errors"][0]["pointer"] == "query:timeout"
        if number in ("-100", "1e308"):
            for name, path in (("POST", "/v1/connections"), ("PUT", "/v1/connections/timed")):
                body = f'{{"url":"{echo.url}","node":"a","connectTimeout":{number}}}'
                headers = {"Content-Type": "application/json", "Idempotency-Key": f"{name}{number}"}
                told = await b.call(name, path, 422, data=body, headers=headers)
                assert told["errors"][0]["pointer"] == "/connectTimeout"
