"""What a request meets at its edge where the service is a node: nobody is told 404 of what another node knows, and an answer says where it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mooring.errors import UnknownConnection, UnknownWorker
from mooring_api.rest.routes import Handler

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

COMMITTED = "Mooring-Committed"
TOLD_S = 2.0


async def answer(request: web.Request, handler: Handler, cluster: Membership) -> web.StreamResponse:
    """Return the answer of `handler`.

    Raises:
        EngineDown: If what is not known here may be known elsewhere, and that cannot be asked.
    """
    if request.method in ("GET", "HEAD"):
        try:
            return await handler(request)
        except (UnknownConnection, UnknownWorker):
            await cluster.barrier()
            return await handler(request)
    response = await handler(request)
    if response.status < 300 and not response.prepared:
        response.headers[COMMITTED] = "cluster" if await cluster.shown(TOLD_S) else "node"
    return response
