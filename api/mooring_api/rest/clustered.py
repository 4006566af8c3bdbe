"""What a request meets at its edge where the service is a node: what another node holds is done there, nobody is told 404 of what another one
knows, and an answer says where it holds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mooring.checks import is_connection_name
from mooring.errors import UnknownConnection, UnknownWorker
from mooring.link.record import STATUS_CLOSED
from mooring_api.rest.context import API, STALE, connection_by, pattern_of
from mooring_api.rest.passing_on import FORWARDED, LOOK_S, Moved, look, pass_on
from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import Handler
from mooring_api.rest.schemas import WorkerList
from mooring_api.rest.told import is_told
from mooring_service.cluster_errors import Elsewhere, EngineDown, NodeSilent, NodeUnreachable
from mooring_service.records import WorkerRecord, stale_worker

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

COMMITTED = "Mooring-Committed"
PASSED_ON_AT_MOST = 2
ONE_CONNECTION, ONE_WORKER = "/v1/connections/{id}", "/v1/workers/{name}"
MESSAGES = "/v1/connections/{id}/messages"


async def answer(request: web.Request, handler: Handler, cluster: Membership) -> web.StreamResponse:
    """Return the answer of `handler`, here or where what is meant is held.

    Raises:
        EngineDown: If what is not known here may be known elsewhere, and that cannot be asked.
        NodeUnreachable, NodeSilent: If the node that holds it is gone, or does not answer.
        Elsewhere: To another node that has asked: who has it is said, and not asked.
    """
    if request.method in ("GET", "HEAD"):
        return await _show(request, handler, cluster)
    node = await _holder(request, cluster)
    if FORWARDED in request.headers:
        if node is not None:
            raise Elsewhere("what is meant", node)
        cluster.check(asked=True)
        return await _do(request, handler, cluster)
    passed_on = 0
    while True:
        try:
            if node is None:
                return await _do(request, handler, cluster)
            passed_on += 1
            return await pass_on(request, node, cluster)
        except (Elsewhere, Moved, Problem) as exc:
            elsewhere = _where(exc)
            if elsewhere is None:
                raise
            if passed_on == PASSED_ON_AT_MOST and elsewhere != cluster.node:
                raise NodeUnreachable(elsewhere) from None  # it moves: nothing was done
            node = elsewhere
        if node == cluster.node:
            await cluster.barrier()  # who says so has read more of the log: else each sends it back to the other
            node = None


def _where(exc: Exception) -> str | None:
    """Return which node has what was meant; None if that is not what is wrong."""
    match exc:
        case Moved():
            return exc.node
        case Elsewhere():
            return None if exc.asked else exc.node
        case Problem() if exc.name == "worker-elsewhere" and "asked" not in exc.extra:
            return str(exc.extra["node"])
    return None


async def _do(request: web.Request, handler: Handler, cluster: Membership) -> web.StreamResponse:
    cluster.check()
    try:
        response = await handler(request)
    except (Elsewhere, Problem) as exc:
        if not _is_contradicted(exc):
            raise
        await cluster.barrier()  # who has it may have given it up: nobody is told 409 of what the log has free by now
        response = await handler(request)
    if response.status < 300 and not response.prepared and _commits(request):
        response.headers[COMMITTED] = "cluster" if await is_told(request) else "node"
    return response


def _is_contradicted(exc: Exception) -> bool:
    """Say whether something is asked for at a node, and another one has it, as far as the log was read."""
    match exc:
        case Elsewhere():
            return exc.asked is not None
        case Problem():
            return exc.name == "worker-elsewhere" and "asked" in exc.extra
    return False


def _commits(request: web.Request) -> bool:
    """Say whether what is asked for is told by the log: of a message that is sent only what becomes of its key is."""
    return pattern_of(request) != MESSAGES or "Idempotency-Key" in request.headers


async def _show(request: web.Request, handler: Handler, cluster: Membership) -> web.StreamResponse:
    path = pattern_of(request)
    if path in (ONE_CONNECTION, ONE_WORKER) and FORWARDED not in request.headers:
        try:
            node = await _holder(request, cluster)
        except NodeUnreachable:  # it is this one, which takes it over just now
            node, request[STALE] = None, True
        if node is not None:
            found = await look(request, node, cluster)
            if found is not None:
                return found
            if path == ONE_WORKER:
                name = request.match_info["name"]
                return json_response(stale_worker(name, node, cluster.directory.live_count_of(name)))
            request[STALE] = True
    try:
        return await handler(request)
    except (UnknownConnection, UnknownWorker):
        await cluster.barrier()
        return await handler(request)


async def _holder(request: web.Request, cluster: Membership) -> str | None:
    """Return which other node has the connection, or the worker, in the path; None: it is here, or none is meant."""
    if request.path.startswith("/v1/workers/"):
        return cluster.holder_of_worker(request.match_info["name"])
    text = request.match_info.get("id")
    if text is None or (request.method == "PUT" and is_connection_name(text)):
        return None  # who has the name is claimed, and told by that
    reading = request.app[API].service.reading
    try:
        connection = connection_by(request, text)
        record = reading.record(connection)
    except Problem:
        return None  # the handler says what is wrong
    except UnknownConnection:
        await cluster.barrier()
        try:
            connection = connection_by(request, text)
            record = reading.record(connection)
        except UnknownConnection:
            return None
    if record.status == STATUS_CLOSED and request.method in ("GET", "HEAD"):
        return None  # all nodes know the same of it
    return cluster.holder_of(connection)


async def workers_of_all(request: web.Request, cluster: Membership) -> list[WorkerRecord]:
    """Return the workers of all nodes that live, by name: each is asked once, and what one does not say in time is stale."""
    own = request.app[API].service.workers.records()
    if FORWARDED in request.headers:
        return own
    others = await asyncio.gather(*(_workers_of(node, cluster) for node in cluster.live_nodes))
    return sorted([*own, *(record for found in others for record in found)], key=lambda record: record.name)


async def _workers_of(node: str, cluster: Membership) -> list[WorkerRecord]:
    try:
        status, _, data = await cluster.forward(node, "GET", "/v1/workers", [(FORWARDED, cluster.node)], b"", LOOK_S)
        if status == 200:
            return msgspec.json.decode(data, type=WorkerList).workers
    except (EngineDown, NodeUnreachable, NodeSilent, msgspec.MsgspecError):
        pass  # what the log tells has to do
    return [stale_worker(name, node, cluster.directory.live_count_of(name)) for name in cluster.workers_of(node)]
