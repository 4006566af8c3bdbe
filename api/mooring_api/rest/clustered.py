"""What a request meets at its edge where the service is a node: what another node holds is done there, nobody is told 404 of what another one
knows, and an answer says where it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mooring.checks import is_connection_name
from mooring.errors import UnknownConnection, UnknownWorker
from mooring_api.rest.context import API, connection_by
from mooring_api.rest.problems import Problem
from mooring_api.rest.routes import Handler
from mooring_service.cluster_errors import Elsewhere

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

COMMITTED = "Mooring-Committed"
FORWARDED = "Mooring-Forwarded"
TOLD_S = 2.0
FORWARD_S = 65.0  # no verb of a connection takes longer by itself
PASSED_ON = ("Content-Type", "Accept", "Prefer", "Idempotency-Key")


async def answer(request: web.Request, handler: Handler, cluster: Membership) -> web.StreamResponse:
    """Return the answer of `handler`, here or where what is meant is held.

    Raises:
        EngineDown: If what is not known here may be known elsewhere, and that cannot be asked.
        NodeUnreachable, NodeSilent: If the node that holds it is gone, or does not answer.
    """
    asked_here = FORWARDED not in request.headers
    worker = request.match_info.get("name") if request.path.startswith("/v1/workers/") else None
    if worker is not None and asked_here and not request.path.endswith("/events"):
        node = cluster.holder_of_worker(worker)
        if node is not None:
            return await _pass_on(request, node, cluster)
    if request.method in ("GET", "HEAD"):
        try:
            return await handler(request)
        except (UnknownConnection, UnknownWorker):
            await cluster.barrier()
            return await handler(request)
    if asked_here and (node := await _holder(request, cluster)) is not None:
        return await _pass_on(request, node, cluster)
    try:
        response = await handler(request)
    except Elsewhere as exc:
        if not asked_here:
            raise
        return await _pass_on(request, exc.node, cluster)
    except Problem as problem:
        if problem.name != "worker-elsewhere" or not asked_here:
            raise
        return await _pass_on(request, problem.extra["node"], cluster)
    if response.status < 300 and not response.prepared:
        response.headers[COMMITTED] = "cluster" if await cluster.shown(TOLD_S) else "node"
    return response


async def _holder(request: web.Request, cluster: Membership) -> str | None:
    """Return which other node has the connection in the path; None: it is here, or none is meant."""
    text = request.match_info.get("id")
    if text is None or (request.method == "PUT" and is_connection_name(text)):
        return None  # who has the name is claimed, and told by that
    try:
        connection = connection_by(request, text)
        request.app[API].service.reading.record(connection)
    except Problem:
        return None  # the handler says what is wrong
    except UnknownConnection:
        await cluster.barrier()
        try:
            connection = connection_by(request, text)
        except UnknownConnection:
            return None
    return cluster.holder_of(connection)


async def _pass_on(request: web.Request, node: str, cluster: Membership) -> web.StreamResponse:
    headers = [(name, request.headers[name]) for name in PASSED_ON if name in request.headers]
    headers.append((FORWARDED, cluster.node))
    body = await request.read()
    status, answered, data = await cluster.forward(node, request.method, request.raw_path, headers, body, FORWARD_S)
    response = web.Response(status=status, body=data)
    response.headers.pop("Content-Type", None)
    for name, value in answered:
        response.headers.add(name, value)
    return response
