"""What every resource of the API needs: the service, the configuration, access. It knows no resource."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from mooring.checks import is_connection_name
from mooring_api.rest.access import Access
from mooring_api.rest.metrics import Metrics
from mooring_api.rest.schemas import connection_id
from mooring_api.rest.stalls import StallWatch
from mooring_service.config import Config
from mooring_service.service import Service

Result = TypeVar("Result")
STALE = "stale"
"""A request that has this is answered by what the log tells: who holds what is asked for has not answered."""


class Api:
    """The composed API: handed to every resource through the application."""

    def __init__(self, service: Service, config: Config, access: Access, lines_dropped: Callable[[], int]) -> None:
        self.service = service
        self.config = config
        self.access = access
        self.metrics = Metrics(service, config, lines_dropped)
        self.stalls = StallWatch(config.api.write_timeout)
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


def pattern_of(request: web.Request) -> str:
    """Return the path of a request with the names of its variables, ``/v1/connections/{id}``; "" if nothing is served there."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def connection_of(request: web.Request) -> int:
    """Return the id of the connection in a path, where its name may stand: it is looked up once, when the request begins.

    Raises:
        UnknownConnection: If no connection has the name.
        Problem: 404 if it can be neither.
    """
    return connection_by(request, request.match_info["id"])


def connection_by(request: web.Request, text: str) -> int:
    """Return the id of the connection that `text`, an id or a name, means.

    Raises:
        As `connection_of`.
    """
    if is_connection_name(text):
        return request.app[API].service.reading.id_of(text)
    return connection_id(text)
