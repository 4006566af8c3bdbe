"""``/v1/cluster``: the cluster as this node sees it."""

from __future__ import annotations

from aiohttp import web

from mooring_api.rest.context import API
from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import Route, answer
from mooring_service.cluster_records import ClusterRecord


async def show(request: web.Request) -> web.Response:
    """``GET /v1/cluster``."""
    cluster = request.app[API].service.cluster
    if cluster is None:
        raise Problem("no-cluster", "this service is no node of a cluster: its configuration has no [cluster]")
    return json_response(cluster.record)


ROUTES = (
    Route(
        "GET", "/v1/cluster", show, "read", query=None,
        summary="The cluster",
        detail="As this node sees it: the engine, how far the log is read, what is not replicated yet, and all nodes. One that is over "
        "(Dead, Left) is listed for a day.",
        answers={200: answer("The record.", ClusterRecord)},
        problems=("no-cluster",),
    ),
)  # fmt: skip
