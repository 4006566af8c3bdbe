"""What every resource of the API needs: the service, the configuration, access; and small things they share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from mooring_api.access import Access
from mooring_api.problems import Problem
from mooring_service.config import Config
from mooring_service.service import Service

BODY_TIMEOUT_S = 30.0  # a body that trickles must have come by then

Result = TypeVar("Result")


class Api:
    """The composed API: handed to every resource through the application."""

    def __init__(self, service: Service, config: Config, access: Access) -> None:
        self.service = service
        self.config = config
        self.access = access
        self.epoch = service.journal.epoch.encode()
        self.stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` to its end even if the client goes away meanwhile: what has been begun is not half done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the one who waited has it, or has gone away

    async def close(self) -> None:
        """Wait briefly for what is still being finished."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in self._tasks:
            task.cancel()


API: web.AppKey[Api] = web.AppKey("api", Api)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return `value` as JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


async def read_body(request: web.Request) -> bytes:
    """Return the whole body.

    Raises:
        Problem: 413 over the limit, 415 if it is compressed, 408 if it does not come.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "bodies are taken uncompressed (no Content-Encoding)")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Problem("request-timeout", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
