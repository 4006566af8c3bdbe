"""What a subscriber reads over a loss: the gap at its place, nothing twice, and the same for everybody; and what a handler fills in."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.test_kept import OPTIONS, counted
from tests.servers import RawConnection, RawServer, frame

AT_ONCE = {"minDelay": 0.05, "maxDelay": 0.2}
LAST, FIRST = 1000, 1050  # the last number before the loss, the first one after it
END = 1200


async def _answers_pings(connection: RawConnection) -> None:
    """Read until the client closes, as a server that is well does."""
    while True:
        opcode, payload = await connection.read_frame()
        if opcode == 9:
            connection.writer.write(frame(10, payload))
        elif opcode == 8:
            return


class NumberedFeed:
    """Sends 1 to `LAST` on the first socket and cuts it when it is told to; on the next ones it goes on at `FIRST`, slowly."""

    def __init__(self) -> None:
        self.cut = asyncio.Event()
        self.server = RawServer(self._script)

    async def _script(self, connection: RawConnection) -> None:
        reading = asyncio.create_task(_answers_pings(connection))
        try:
            if len(self.server.connections) == 1:
                await connection.accept(after=b"".join(frame(1, b"%d" % number) for number in range(1, LAST + 1)))
                await self.cut.wait()
                connection.reset()
                return
            await connection.accept()
            for number in range(FIRST, END + 1):
                connection.writer.write(frame(1, b"%d" % number))
                await connection.writer.drain()
                await asyncio.sleep(0.005)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _read(service: RunningService, connection: int, after: str = "start", until: int = END) -> list[bytes]:
    """Return the blocks of an SSE stream as they came, up to message number `until`."""
    headers = {"Accept": "text/event-stream"} | ({} if after == "start" else {"Last-Event-ID": after})
    path = f"/v1/connections/{connection}/events"
    found: list[bytes] = []
    async with service.client.get(path, headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as response:
        rest = b""
        async for chunk in response.content.iter_any():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                if b"data: " not in block:
                    continue  # retry, and the comments of an idle stream
                found.append(re.sub(rb"^retry: .*\n|^:.*\n", b"", block, flags=re.M))
                if b'"data":"%d"' % until in block:
                    return found
    return found


def _id(block: bytes) -> str:
    match = re.search(rb"^id: (.+)$", block, re.M)
    assert match
    return match[1].decode()


async def test_who_was_there_and_who_was_away_read_the_same_bytes_with_the_gap_at_its_place(
    service: RunningService,
) -> None:  # 25
    feed = NumberedFeed()
    async with feed.server:
        kept = (await service.open(feed.server.url, reconnect=AT_ONCE))["id"]
        there = asyncio.create_task(_read(service, kept))
        before = await _read(service, kept, until=500)
        await service.events(kept, count=LAST + 1)
        feed.cut.set()
        await service.events(kept, until="onReconnect")
        whole = await there
        away = before + await _read(service, kept, _id(before[-1]))
        assert away == whole, "byte for byte"
        assert whole == await _read(service, kept), "and so does who comes afterwards"
    events = await service.events(kept, count=len(whole))
    kinds = [event["kind"] for event in events[: len(whole)]]
    gap = kinds.index("onDisconnect")
    assert kinds == ["onOpen", *["onMessage"] * LAST, "onDisconnect", "onReconnect", *["onMessage"] * (END - FIRST + 1)]
    assert events[gap + 1]["event"]["gapFrom"] == events[gap - 1]["time"], "the time of message 1,000"
    assert events[gap + 1]["event"]["lost"] is None
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def _messages(events: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    return [
        (int(event["event"]["data"]), event["event"].get("filled", False))
        for event in events
        if event["kind"] == "onMessage"
    ]


WITHOUT_A_HOLE = [(number, LAST < number < FIRST) for number in range(1, END + 1)]


async def _open(service: RunningService, url: str, tmp_path: Path, seconds: float, **options: Any) -> int:
    source = tmp_path / "source"
    source.write_text(str(FIRST))
    handler = {"name": "CatchesUp", "params": {"path": str(source), "seconds": seconds}}
    return int((await service.open(url, handler=handler, reconnect=AT_ONCE, **options))["id"])


@pytest.mark.parametrize("seconds", [9.0, pytest.param(30.0, marks=pytest.mark.long)])
async def test_what_a_handler_fetches_stands_before_the_live_messages_and_its_peer_is_not_judged_meanwhile(
    start_service: StartService, tmp_path: Path, seconds: float
) -> None:  # 26
    service = await start_service(*OPTIONS)
    feed = NumberedFeed()
    async with feed.server:
        kept = await _open(service, feed.server.url, tmp_path, seconds, pingInterval=0.5, pingTimeout=5)
        await service.events(kept, count=LAST + 1)
        feed.cut.set()
        await service.events(kept, until="onReconnect")
        events = await service.events(kept, count=END + 3, timeout_s=seconds + 60)
        assert _messages(events) == WITHOUT_A_HOLE
        assert [event["kind"] for event in events].count("onReconnect") == 1, "its peer was not judged dead"
        assert (await counted(service, kept, messagesFilled=FIRST - LAST - 1))["socket"] == 2


async def test_a_service_that_is_killed_in_the_middle_of_a_fill_repeats_and_loses_nothing(
    start_service: StartService, tmp_path: Path
) -> None:  # 27
    service = await start_service(*OPTIONS)
    feed = NumberedFeed()
    async with feed.server:
        kept = await _open(service, feed.server.url, tmp_path, 1.0)
        await service.events(kept, count=LAST + 1)
        feed.cut.set()
        await service.events(kept, until="onReconnect")
        await service.restart_after_kill(pause_s=0.7)  # its handler fetches just now
        await wait_for(service.is_ready)
        events = await service.events(kept, count=END + 3)
        assert _messages(events) == WITHOUT_A_HOLE
        assert [event["seq"] for event in events] == list(range(1, END + 4))
        assert [event["kind"] for event in events].count("onDisconnect") == 1
