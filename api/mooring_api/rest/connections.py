"""The connections resource: create, list, show, send, terminate."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from mooring.checks import check_worker_name, is_connection_name
from mooring.errors import ErrCode, MooringError
from mooring.link.record import STATUS_CLOSED, STATUS_CONNECTING, STATUSES
from mooring.options import DEFAULT_WORKER, ConnectionRequest
from mooring_api.rest import idempotency
from mooring_api.rest.body import read_body
from mooring_api.rest.context import API, STALE, Api, connection_of
from mooring_api.rest.problems import Problem, problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, KEY, PREFER, Parameter, Route, answer
from mooring_api.rest.schemas import (
    MAX_PAGE,
    ConnectionPage,
    decode,
    invalid,
    query_int,
)
from mooring_api.rest.told import told
from mooring_service.cluster_errors import NodeUnreachable
from mooring_service.opening import Opening
from mooring_service.records import ConnectionRecord

_DIAL_PROBLEMS: dict[int, str] = {
    ErrCode.CONNECT_TIMEOUT: "connect-timeout",
    ErrCode.POLICY_REFUSED: "address-refused",
    ErrCode.TERMINATED_WHILE_CONNECTING: "terminated",
    ErrCode.WORKER_STOPPING: "terminated",
    ErrCode.OPENING_FAILED: "opening-failed",
}
"""What a dial that failed would have been answered with, had the service not died under it."""


async def create(request: web.Request) -> web.Response:
    """``POST /v1/connections``."""
    api = request.app[API]
    key = idempotency.key_of(request)
    body = await read_body(request)
    later = prefers_async(request)
    wanted = decode(body, ConnectionRequest)
    connections = api.service.connections
    if key is None:
        return await _answer(request, later, api.finish(connections.open(wanted)))
    if api.service.cluster is not None:
        connections.locate(wanted)  # the key is claimed by who does it

    async def work(begun: int | None) -> web.Response:
        if begun is not None:
            return await _answer_begun(api, begun, wanted, later)
        return await _answer(request, later, connections.open(wanted, begun=partial(_running, key)))

    anywhere = wanted.worker == DEFAULT_WORKER and not wanted.name and not wanted.node
    return await api.finish(idempotency.once(request, key, body, work, anywhere=anywhere))


def _running(key: str, connection: int) -> tuple[str, bytes]:
    return key, idempotency.encode_answer(idempotency.Running(connection))


async def _answer(request: web.Request, later: bool, begun: Awaitable[Opening]) -> web.Response:
    try:
        opening = await begun
        if later:
            return created(request.app[API].service.reading.record(opening.connection), 202)
        return created(await told(request, await opening.done))
    except MooringError as exc:
        raise problem_of(exc) from exc


async def _answer_begun(api: Api, connection: int, wanted: ConnectionRequest, later: bool) -> web.Response:
    try:
        if later:
            return created(api.service.reading.record(connection), 202)
        return created(await _await_end_of_dial(api, connection, wanted))
    except MooringError as exc:
        raise problem_of(exc) from exc


async def _await_end_of_dial(api: Api, connection: int, wanted: ConnectionRequest) -> ConnectionRecord:
    """After a crash: the dial was begun under this key; what became of it is in the record.

    Raises:
        NodeUnreachable: If a node has begun it that is lost, and nobody has told its end yet.
    """
    if api.service.cluster is not None and api.service.cluster.was_begun_elsewhere(connection):
        record = api.service.reading.record(connection)
        if record.status == STATUS_CLOSED:
            text = "the node that opened it is lost"
            raise Problem("connect-failed", text, errors=record.errors, connection=connection)
        if record.opened_at is None:
            raise NodeUnreachable(record.node or "")
        return record
    # A record becomes Connected without an event: with a handler, onOpen follows its turn.
    record = await api.service.connections.until(
        connection,
        lambda record: record.status != STATUS_CONNECTING or _goes_on(record),
        api.service.connections.open_timeout_s(connection, wanted) + 5,
    )
    if record.opened_at is None and not _goes_on(record):
        detail = record.errors[0].message if record.errors else "the dial has not ended"
        name = _DIAL_PROBLEMS.get(record.errors[0].err_code, "connect-failed") if record.errors else "connect-timeout"
        raise Problem(name, detail, errors=record.errors, connection=connection)
    return record


def _goes_on(record: ConnectionRecord) -> bool:
    """Say whether its first attempt has failed, and others will follow (`first` "retry")."""
    return bool(record.status == STATUS_CONNECTING and record.down and record.down.errors)


def created(record: ConnectionRecord, status: int = 0) -> web.Response:
    """Return the answer of a create; `status` 0: by the record."""
    headers = {"Location": f"/v1/connections/{record.id}"}
    if status == 202:
        headers["Preference-Applied"] = "respond-async"
    # A kept one with first "retry" may not be open yet, and goes on trying.
    return json_response(record, status or (201 if record.opened_at is not None else 202), headers)


def prefers_async(request: web.Request) -> bool:
    """Say whether ``Prefer: respond-async`` is among the request's preferences (RFC 7240)."""
    return any(
        part.strip().split(";")[0].strip().lower() == "respond-async"
        for value in request.headers.getall("Prefer", ())
        for part in value.split(",")
    )


async def index(request: web.Request) -> web.Response:
    """``GET /v1/connections``."""
    query = request.query
    status = query.get("status")
    if status is not None and status not in STATUSES:
        raise invalid("query:status", f"must be one of {', '.join(STATUSES)}")
    worker = query.get("worker")
    if worker is not None and check_worker_name(worker):
        raise invalid("query:worker", f"{worker!r} is not a worker's name")
    name = query.get("name")
    if name is not None and not is_connection_name(name):
        raise invalid("query:name", f"{name!r} is not a connection's name")
    ready = query.get("ready")
    if ready not in (None, "true", "false"):
        raise invalid("query:ready", "must be true or false")
    found, following = await request.app[API].service.reading.page(
        worker=worker,
        status=status,
        name=name,
        node=query.get("node"),
        ready=None if ready is None else ready == "true",
        after=query_int(query, "after", 0, 0, 2**62),
        limit=query_int(query, "limit", 100, 1, MAX_PAGE),
    )
    return json_response(ConnectionPage(found, following))


async def show(request: web.Request) -> web.Response:
    """``GET /v1/connections/{id}``."""
    record = request.app[API].service.reading.record(connection_of(request))
    return json_response(msgspec.structs.replace(record, stale=True) if STALE in request else record)


async def terminate(request: web.Request) -> web.Response:
    """``DELETE /v1/connections/{id}``: idempotent."""
    api = request.app[API]
    query = request.query
    connection = connection_of(request)
    code: Any = query.get("code")
    if code is not None:
        if not (code.isascii() and code.isdigit() and len(code) <= 9):
            raise invalid("query:code", "must be 1000, or 3000 to 4999")
        code = int(code)
    try:
        record = await api.finish(api.service.connections.terminate(connection, code, query.get("reason")))
        return json_response(await told(request, record))
    except MooringError as exc:
        raise problem_of(exc) from exc


WORKER_PROBLEMS = ("worker-died", "worker-silent", "unavailable", "journal-unavailable")
OPEN_PROBLEMS = (
    *WORKER_PROBLEMS, "connect-failed", "connect-timeout", "opening-failed", "opening-timeout", "address-refused", "secret-not-allowed", "terminated", "worker-busy",
    "limit-reached", "unknown-function", "name-taken",
)  # fmt: skip
LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}, "Size of a page.")

ROUTES = (
    Route(
        "POST", "/v1/connections", create, "manage",
        summary="Open a connection",
        detail="Answers once it is Connected. Only `url` is required; unknown keys are refused.",
        headers=(PREFER, KEY),
        body={JSON: ConnectionRequest},
        example={"url": "ws://127.0.0.1:8481/", "headers": {"Authorization": "Bearer …"}},
        answers={
            201: answer("Connected.", ConnectionRecord, "Location"),
            202: answer(
                "Connecting; its events will tell. Asked for by `Prefer`, or because the first attempt has failed and `reconnect.first` is `retry`.",
                ConnectionRecord, "Location", "Preference-Applied",
            ),
        },
        problems=OPEN_PROBLEMS,
    ),
    Route(
        "GET", "/v1/connections", index, "read",
        summary="List connections",
        query=(
            Parameter("worker", {"type": "string"}, "Only of this worker."),
            Parameter("status", {"enum": list(STATUSES)}, "Only those with this status."),
            Parameter("ready", {"type": "boolean"}, "true: only those that messages can be sent to; false: only the others."),
            Parameter("name", {"type": "string"}, "Only those that have, or had, exactly this name."),
            Parameter("node", {"type": "string"}, "In a cluster: only those of this node. A service without one has none."),
            LIMIT,
            Parameter("after", {"type": "integer", "minimum": 0}, "`next` of the page before."),
        ),
        answers={200: answer("By id.", ConnectionPage)},
    ),
    Route(
        "GET", "/v1/connections/{id}", show, "read",
        summary="Show a connection",
        detail="Closed ones too, while they are retained.",
        answers={200: answer("The record.", ConnectionRecord)},
        problems=("connection-not-found",),
    ),
    Route(
        "DELETE", "/v1/connections/{id}", terminate, "manage",
        summary="Terminate a connection",
        detail="Idempotent. Answers within closeTimeout and a second, whatever the peer does.",
        query=(
            Parameter("code", {"type": "integer"}, "1000 (the default), or 3000 to 4999."),
            Parameter("reason", {"type": "string"}, "At most 123 bytes of UTF-8."),
        ),
        answers={200: answer("The final record.", ConnectionRecord)},
        problems=("connection-not-found", "declared", "worker-silent", "unavailable", "journal-unavailable"),
    ),
)  # fmt: skip
