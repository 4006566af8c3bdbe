"""Requests over a connection: the body goes out, and its reply is the answer."""

from __future__ import annotations

from aiohttp import web

from mooring.checks import REPLY_TIMEOUT_S
from mooring.errors import MooringError
from mooring_api.rest import idempotency
from mooring_api.rest.body import read_body
from mooring_api.rest.connections import WORKER_PROBLEMS, prefers_async
from mooring_api.rest.context import API, connection_of
from mooring_api.rest.problems import problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, KEY, PREFER, Parameter, Route, answer
from mooring_api.rest.schemas import check_json, invalid
from mooring_service.records import ReplyRecord, RequestRecord


async def ask(request: web.Request) -> web.Response:
    """``POST /v1/connections/{id}/requests``."""
    api = request.app[API]
    connection = connection_of(request)
    try:
        timeout_s = float(request.query.get("timeout", REPLY_TIMEOUT_S))
    except ValueError:
        raise invalid("query:timeout", "must be 0.1 to 600 seconds") from None
    key = idempotency.key_of(request) if "Idempotency-Key" in request.headers else None
    body = await read_body(request)
    check_json(body)
    later = prefers_async(request)
    worker_key = None if key is None else f"{connection}:{key}"

    async def work(begun: int | None = None) -> web.Response:
        try:
            found = await api.service.requesting.request(
                connection, body, timeout_s=timeout_s, key=worker_key, later=later
            )
        except MooringError as exc:
            raise problem_of(exc) from exc
        if isinstance(found, RequestRecord):
            return json_response(found, 202, {"Preference-Applied": "respond-async"})
        return json_response(found)

    return await api.finish(work() if key is None else idempotency.once(request, key, body, work))


ROUTES = (
    Route(
        "POST", "/v1/connections/{id}/requests", ask, "send",
        summary="Send a request and get its reply",
        detail="For connections with `requests`. The body is the message: its id is set, unless it has one. Nothing is queued, and "
        "nothing is sent twice.",
        headers=(PREFER, KEY),
        query=(
            Parameter(
                "timeout", {"type": "number", "minimum": 0.1, "maximum": 600, "default": REPLY_TIMEOUT_S},
                "So many seconds the reply may take.",
            ),
        ),
        body={JSON: {}},
        example={"method": "eth_blockNumber", "params": [], "jsonrpc": "2.0"},
        answers={
            200: answer("The reply has come.", ReplyRecord),
            202: answer("On its way; the reply will be an ordinary message.", RequestRecord, "Preference-Applied"),
        },
        problems=(
            *WORKER_PROBLEMS, "connection-not-found", "wrong-state", "connection-closed", "no-requests", "id-in-use",
            "limit-reached", "peer-not-reading", "peer-error", "reply-lost", "reply-timeout",
        ),
    ),
)  # fmt: skip
