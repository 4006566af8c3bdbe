"""What is wanted of a connection: one of this name is there, whoever asks again."""

from __future__ import annotations

from aiohttp import web

from mooring.changes import Changes
from mooring.errors import MooringError
from mooring.options import ConnectionRequest
from mooring_api.rest.body import read_body
from mooring_api.rest.connections import OPEN_PROBLEMS, WORKER_PROBLEMS, created, prefers_async
from mooring_api.rest.context import API, connection_of
from mooring_api.rest.problems import problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, PREFER, Route, answer
from mooring_api.rest.schemas import decode
from mooring_api.rest.told import told
from mooring_service.records import ConnectionRecord


async def put(request: web.Request) -> web.Response:
    """``PUT /v1/connections/{name}``."""
    api = request.app[API]
    body = await read_body(request)
    wanted = decode(body, ConnectionRequest)
    return await api.finish(_put(request, wanted, prefers_async(request)))


async def _put(request: web.Request, wanted: ConnectionRequest, later: bool) -> web.Response:
    service = request.app[API].service
    try:
        found = await service.wanted.put(request.match_info["id"], wanted)
        if isinstance(found, ConnectionRecord):
            return json_response(await told(request, found))
        if later:
            return created(service.reading.record(found.connection), 202)
        return created(await told(request, await found.done))
    except MooringError as exc:
        raise problem_of(exc) from exc


async def patch(request: web.Request) -> web.Response:
    """``PATCH /v1/connections/{id}``."""
    api = request.app[API]
    connection = connection_of(request)
    changes = decode(await read_body(request), Changes)
    try:
        record = await api.finish(api.service.wanted.change(connection, changes))
        return json_response(await told(request, record))
    except MooringError as exc:
        raise problem_of(exc) from exc


ROUTES = (
    Route(
        "PATCH", "/v1/connections/{id}", patch, "manage",
        summary="Change a connection",
        detail="A key that is given replaces that key whole, `null` puts its default back, the others stay. It holds from the next "
        "attempt on; what sends do while it is down, at once. `POST …/reconnect` makes the next attempt now.",
        body={JSON: Changes},
        example={"headers": {"Authorization": "Bearer …"}},
        answers={200: answer("The record.", ConnectionRecord)},
        problems=(
            *WORKER_PROBLEMS, "connection-not-found", "wrong-state", "connection-closed", "not-kept", "declared", "address-refused",
            "secret-not-allowed", "worker-busy",
        ),
    ),
    Route(
        "PUT", "/v1/connections/{id}", put, "manage",
        summary="Have a connection of this name",
        detail="The path holds a name, the body is that of a create (`name` is absent in it, or the same). One of that name that has not "
        "ended and was asked for the same, with the defaults filled in, is answered at once as it is; else it is opened. So a program "
        "says on every start what it wants, and needs to keep no id.",
        headers=(PREFER,),
        body={JSON: ConnectionRequest},
        example={"url": "wss://feed.example.com/", "reconnect": True},
        answers={
            200: answer("It is there, as it was asked for.", ConnectionRecord),
            201: answer("Connected.", ConnectionRecord, "Location"),
            202: answer("Connecting, as for a create.", ConnectionRecord, "Location", "Preference-Applied"),
        },
        problems=(*OPEN_PROBLEMS, "declared", "wrong-state"),
    ),
)  # fmt: skip
