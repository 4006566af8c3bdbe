"""When others can read what was just done: one wait for a request, and one word of it, which its header and its body agree on."""

from __future__ import annotations

import asyncio

from aiohttp import web

from mooring.errors import UnknownConnection
from mooring_api.rest.context import API
from mooring_service.records import ConnectionRecord

TOLD_S = 2.0  # for all that one request waits for
_WAITED = "waited"  # of a request: until when it may wait, and whether all was in time so far


async def told(request: web.Request, record: ConnectionRecord) -> ConnectionRecord:
    """Return the record of what was just done, once it can be read at every node; after two seconds anyway."""
    service = request.app[API].service
    if service.cluster is None:
        return record
    await _wait(request)
    try:
        return service.reading.record(record.id)
    except UnknownConnection:
        return record


async def is_told(request: web.Request) -> bool:
    """Say whether what was done can be read at every node: the body was told so, or it is waited for now.

    What a key stands for was committed behind the body, and has the rest of the two seconds.
    """
    if _WAITED not in request or "Idempotency-Key" in request.headers:
        await _wait(request)
    _, in_time = request[_WAITED]
    return bool(in_time)


async def _wait(request: web.Request) -> None:
    cluster = request.app[API].service.cluster
    assert cluster is not None, "nobody else waits"
    now_s = asyncio.get_running_loop().time()
    until_s, in_time = request.get(_WAITED, (now_s + TOLD_S, True))
    # What was not told in time stays so, though it may be now: the body does not have it.
    request[_WAITED] = until_s, in_time and await cluster.shown(max(0.0, until_s - now_s))
