"""A subscriber that resumes, and holds what it gets against a ledger."""

from __future__ import annotations

import asyncio
import json
from typing import Self

import aiohttp

from tests.conftest import RunningService
from tests.servers import Ledger


class Follower:
    """Follows a stream as a careful client does: `Last-Event-ID` after each break. A task of its own."""

    def __init__(self, service: RunningService, path: str = "/v1/events", after: str = "start") -> None:
        self.ledger = Ledger()
        self.breaks = 0
        self.last_id: str | None = None
        self.failure: BaseException | None = None
        self._service = service
        self._path = path
        self._after = after
        self._response: aiohttp.ClientResponse | None = None
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if exc[0] is None and self.failure is not None:
            raise self.failure

    def drop(self) -> None:
        """Cut the connection, as a lost network does."""
        if self._response is not None and self._response.connection is not None:
            transport = self._response.connection.transport
            if transport is not None:
                transport.abort()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._follow()
                except (aiohttp.ClientError, ConnectionError, RuntimeError):
                    pass
                self.breaks += 1
                await asyncio.sleep(0.02)
        except AssertionError as exc:
            self.failure = exc

    async def _follow(self) -> None:
        headers = {"Accept": "application/x-ndjson", "Authorization": f"Bearer {self._service.token}"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
        async with aiohttp.ClientSession(self._service.url, timeout=timeout) as session:
            async with session.get(f"{self._path}?after={self._after}", headers=headers) as response:
                if response.status != 200:
                    return
                self._response = response
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        self.ledger.take(event)
                        self.last_id = event["id"]
