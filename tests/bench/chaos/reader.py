"""A subscriber of a run: reads everything from the start, and goes on at another node every few seconds, from its last event."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Self

import aiohttp
import msgspec

from tests.conftest import RunningService

STAY_S = 1.0, 5.0
PAUSE_S = 0.05


class _Event(msgspec.Struct):
    id: str
    kind: str


class Reader:
    """Follows the log.

    Args:
        where: Returns the services that run.

    Attributes:
        ids: Positions of all that was read, in the order in which it came.
        gaps: How often it was told that something is missing.
        moves: How often it has gone on elsewhere.
    """

    def __init__(self, where: Callable[[], list[RunningService]], chosen: random.Random) -> None:
        self._where, self._chosen = where, chosen
        self.ids: list[int] = []
        self.gaps = self.moves = 0
        self.last_id = ""
        self._decode = msgspec.json.Decoder(_Event).decode

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        # Ends by cancellation.
        while True:
            await asyncio.sleep(PAUSE_S)
            running = self._where()
            if not running:
                continue
            self.moves += 1
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(self._chosen.uniform(*STAY_S)):
                    await self._follow(self._chosen.choice(running))

    async def _follow(self, service: RunningService) -> None:
        headers = {"Accept": "application/x-ndjson", "Authorization": f"Bearer {service.token}"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
        async with (
            aiohttp.ClientSession(service.url, timeout=timeout) as session,
            session.get("/v1/events?after=start", headers=headers) as response,
        ):
            if response.status != 200:
                return
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):
                        self._take(self._decode(line))

    def _take(self, event: _Event) -> None:
        self.last_id = event.id
        if event.kind == "gap":
            self.gaps += 1
        else:
            self.ids.append(position_in(event.id))


def position_in(event_id: str) -> int:
    """Return the position that an id tells."""
    return int(event_id.rpartition("-")[2])
