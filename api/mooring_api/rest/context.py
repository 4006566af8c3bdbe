"""What every resource of the API needs: the service, the configuration, access; and small things they share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from mooring_api.rest.access import Access
from mooring_api.rest.metrics import Metrics
from mooring_api.rest.problems import Problem
from mooring_service.config import Config
from mooring_service.service import Service

BODY_TIMEOUT_S = 30.0  # a body that trickles must have come by then

Result = TypeVar("Result")


class StallWatch:
    """Cuts off subscribers that do not read: a write that takes longer than `timeout_s` has its transport aborted.

    One timer serves all streams, and a write costs two assignments.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._writing: dict[Writing, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, transport: asyncio.Transport | None) -> Writing:
        """Return what to write under: ``with writing: await response.write(…)``."""
        return Writing(self, transport)

    def begin(self, writing: Writing) -> None:
        """A write has begun."""
        loop = asyncio.get_running_loop()
        self._writing[writing] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s / 4, self._sweep)

    def end(self, writing: Writing) -> None:
        """The write has ended."""
        self._writing.pop(writing, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        overdue = loop.time() - self._timeout_s
        for writing in [writing for writing, begun_at in self._writing.items() if begun_at <= overdue]:
            del self._writing[writing]
            writing.abort()
        self._timer = loop.call_later(self._timeout_s / 4, self._sweep) if self._writing else None


class Writing:
    """The writes of one stream."""

    def __init__(self, stalls: StallWatch, transport: asyncio.Transport | None) -> None:
        self._stalls = stalls
        self._transport = transport

    def __enter__(self) -> None:
        self._stalls.begin(self)

    def __exit__(self, *exc: object) -> None:
        self._stalls.end(self)

    def abort(self) -> None:
        """Cut the subscriber off: its write raises."""
        if self._transport is not None:
            self._transport.abort()


class Api:
    """The composed API: handed to every resource through the application."""

    def __init__(self, service: Service, config: Config, access: Access) -> None:
        self.service = service
        self.config = config
        self.access = access
        self.epoch = service.journal.epoch.encode()
        self.metrics = Metrics(service, config)
        self.stalls = StallWatch(config.api.write_timeout)
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


_JSON = {"Content-Type": "application/json"}
_encode = msgspec.json.Encoder().encode

API: web.AppKey[Api] = web.AppKey("api", Api)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return `value` as JSON."""
    return web.Response(body=_encode(value), status=status, headers=_JSON if headers is None else {**_JSON, **headers})


def problem_response(problem: Problem) -> web.Response:
    """Return a problem as a response."""
    return web.Response(
        status=problem.status,
        body=problem.body(),
        headers=problem.headers,
        content_type="application/problem+json",
    )


async def read_body(request: web.Request) -> bytes:
    """Return the whole body.

    Raises:
        Problem: 413 over the limit, 415 if it is compressed, 408 if it does not come.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "bodies are taken uncompressed (no Content-Encoding)")
    if (request.content_length or 0) > request.client_max_size:
        # Said before it is read; what is longer than it says, or says nothing, meets the same limit on the way.
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    if request.content.is_eof():
        return await request.read()  # all of it is here: no deadline is needed
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Problem("request-timeout", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
