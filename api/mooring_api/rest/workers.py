"""The workers resource: list, show, start, kill, drain, call."""

from __future__ import annotations

from aiohttp import web

from mooring.errors import MooringError
from mooring_api.rest import idempotency
from mooring_api.rest.body import read_body
from mooring_api.rest.clustered import workers_of_all
from mooring_api.rest.connections import WORKER_PROBLEMS, prefers_async
from mooring_api.rest.context import API, Api
from mooring_api.rest.problems import problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, KEY, PREFER, Parameter, Route, answer
from mooring_api.rest.schemas import CallRequest, StartRequest, WorkerList, decode
from mooring_service.records import Killed, WorkerRecord


async def index(request: web.Request) -> web.Response:
    """``GET /v1/workers``."""
    service, node = request.app[API].service, request.query.get("node")
    found = service.workers.records() if service.cluster is None else await workers_of_all(request, service.cluster)
    return json_response(WorkerList([record for record in found if node in (None, record.node)]))


async def show(request: web.Request) -> web.Response:
    """``GET /v1/workers/{name}``."""
    return json_response(request.app[API].service.workers.record(request.match_info["name"]))


async def start(request: web.Request) -> web.Response:
    """``PUT /v1/workers/{name}``: once Running; a Failed one is restarted."""
    api = request.app[API]
    name = request.match_info["name"]
    body = await read_body(request)
    wanted = decode(body, StartRequest) if body.strip() else StartRequest()
    record, created = await api.finish(api.service.workers.start(name, wanted.node))
    return json_response(record, 201 if created else 200, {"Location": f"/v1/workers/{name}"} if created else None)


async def kill(request: web.Request) -> web.Response:
    """``DELETE /v1/workers/{name}``."""
    api = request.app[API]
    return json_response(await api.finish(api.service.workers.kill(request.match_info["name"])))


async def drain(request: web.Request) -> web.Response:
    """``POST /v1/workers/{name}/drain``: no new connections; restarted when the last one has ended."""
    api = request.app[API]
    name = request.match_info["name"]
    key = idempotency.key_of(request)
    if key is None:
        return await api.finish(_drain(api, name))
    body = await read_body(request)
    return await api.finish(idempotency.once(request, key, body, lambda begun: _drain(api, name)))


async def _drain(api: Api, name: str) -> web.Response:
    try:
        return json_response(await api.service.workers.drain(name), 202)
    except MooringError as exc:
        raise problem_of(exc) from exc


async def call(request: web.Request) -> web.Response:
    """``POST /v1/workers/{name}/calls``."""
    api = request.app[API]
    name = request.match_info["name"]
    key = idempotency.key_of(request)
    body = await read_body(request)
    wanted = decode(body, CallRequest)
    later = prefers_async(request)
    if key is None:
        return await api.finish(_call(api, name, wanted, later, None))
    return await api.finish(
        idempotency.once(request, key, body, lambda begun: _call(api, name, wanted, later, f"{name}:{key}"))
    )


async def _call(api: Api, name: str, wanted: CallRequest, later: bool, key: str | None) -> web.Response:
    try:
        if later:
            await api.service.workers.call_later(name, wanted.function, wanted.params, key=key)
            return json_response({"accepted": True}, 202, {"Preference-Applied": "respond-async"})
        result = await api.service.workers.call(name, wanted.function, wanted.params, key=key)
    except MooringError as exc:
        raise problem_of(exc) from exc
    return web.Response(body=b'{"result":%b}' % result, content_type="application/json")


ROUTES = (
    Route(
        "GET", "/v1/workers", index, "read",
        summary="List workers",
        detail="In a cluster those of all nodes that live: of a node that does not answer within a second, what the log tells, `stale`.",
        query=(Parameter("node", {"type": "string"}, "In a cluster: only those of this node. A service without one has none."),),
        answers={200: answer("By name.", WorkerList)},
    ),
    Route(
        "GET", "/v1/workers/{name}", show, "read",
        summary="Show a worker",
        answers={200: answer("The record.", WorkerRecord)},
        problems=("worker-not-found",),
    ),
    Route(
        "PUT", "/v1/workers/{name}", start, "manage",
        summary="Have a worker Running",
        detail="Creates it, or restarts one that is Failed. In a cluster `node` says where, if nobody has it yet.",
        body={JSON: StartRequest},
        body_optional=True,
        example={"node": "b"},
        answers={
            200: answer("It was there, or was restarted.", WorkerRecord),
            201: answer("Created.", WorkerRecord, "Location"),
        },
        problems=("worker-busy", "limit-reached", *WORKER_PROBLEMS),
    ),
    Route(
        "DELETE", "/v1/workers/{name}", kill, "manage",
        summary="Kill a worker",
        detail="The running callback ends, what is pending is discarded, connections are closed with 1001.",
        answers={200: answer("What it cost.", Killed)},
        problems=("worker-not-found",),
    ),
    Route(
        "POST", "/v1/workers/{name}/drain", drain, "manage",
        summary="Drain a worker",
        detail="It takes no new connections, and is restarted when the last one has ended and what was asked of it has run; calls "
        "that come meanwhile wait for that.",
        headers=(KEY,),
        answers={202: answer("It drains.", WorkerRecord)},
        problems=("worker-not-found", "journal-unavailable"),
    ),
    Route(
        "POST", "/v1/workers/{name}/calls", call, "manage",
        summary="Call a function in a worker",
        detail="Functions are named in the configuration. `params` go by keyword (object) or position (list).",
        headers=(PREFER, KEY),
        body={JSON: CallRequest},
        example={"function": "add", "params": [1, 2]},
        answers={
            200: answer("It has run.", {"type": "object", "required": ["result"], "properties": {"result": {}}}),
            202: answer("It is queued.", {"type": "object"}, "Preference-Applied"),
        },
        problems=(*WORKER_PROBLEMS, "unknown-function", "handler-error", "call-raised", "worker-busy", "limit-reached"),
    ),
)  # fmt: skip
