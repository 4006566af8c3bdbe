"""What can be asked of kept connections alone: a new socket now."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from mooring.errors import MooringError, WorkerSilent
from mooring_api.rest import idempotency
from mooring_api.rest.body import read_body
from mooring_api.rest.connections import WORKER_PROBLEMS
from mooring_api.rest.context import API, connection_of
from mooring_api.rest.problems import Problem, problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, KEY, Parameter, Route, answer
from mooring_api.rest.schemas import decode
from mooring_api.rest.told import told
from mooring_service.records import ConnectionRecord

MAX_WAIT_S = 600
WAIT = Parameter(
    "Prefer", {"type": "string"}, f"`wait=SECONDS` (at most {MAX_WAIT_S}): answer once the new socket is ready."
)


class ReconnectOrder(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a kept connection gets its new socket. All is optional, the body too."""

    delay: Annotated[float, msgspec.Meta(description="Seconds until then, 0 to 86400.")] = 0.0
    code: Annotated[int, msgspec.Meta(description="Of our close frame: 1000, or 3000 to 4999.")] = 1000
    reason: Annotated[str, msgspec.Meta(description="At most 123 bytes of UTF-8.")] = ""


async def reconnect(request: web.Request) -> web.Response:
    """``POST /v1/connections/{id}/reconnect``."""
    api = request.app[API]
    connection = connection_of(request)
    key = idempotency.key_of(request) if "Idempotency-Key" in request.headers else None
    body = await read_body(request)
    order = decode(body, ReconnectOrder) if body.strip() else ReconnectOrder()
    wait_s = wait_of(request)

    async def work(begun: int | None = None) -> web.Response:
        return await _reconnect(request, connection, order, wait_s)

    return await api.finish(work() if key is None else idempotency.once(request, key, body, work))


async def _reconnect(request: web.Request, connection: int, order: ReconnectOrder, wait_s: int | None) -> web.Response:
    try:
        record = await request.app[API].service.connections.reconnect(
            connection, delay_s=order.delay, code=order.code, reason=order.reason, wait_s=wait_s
        )
    except WorkerSilent as exc:
        if wait_s is None:
            raise problem_of(exc) from exc
        raise Problem("opening-timeout", f"no new socket was ready within {wait_s} s", connection=connection) from exc
    except MooringError as exc:
        raise problem_of(exc) from exc
    record = await told(request, record)
    if wait_s is None:
        return json_response(record, 202)
    return json_response(record, 200, {"Preference-Applied": f"wait={wait_s}"})


def wait_of(request: web.Request) -> int | None:
    """Return the seconds of ``Prefer: wait=`` (RFC 7240 section 4.3); None: it is not among the preferences."""
    for value in request.headers.getall("Prefer", ()):
        for part in value.split(","):
            name, _, seconds = part.partition(";")[0].partition("=")
            seconds = seconds.strip().strip('"')
            if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
                return min(int(seconds[:9]), MAX_WAIT_S)
    return None


ROUTES = (
    Route(
        "POST", "/v1/connections/{id}/reconnect", reconnect, "manage",
        summary="Get a new socket for a kept connection",
        detail="The socket that it has is closed; one that waits dials now, one that dials goes on. Answers at once, or with "
        "`Prefer: wait=` once the new socket is ready.",
        headers=(WAIT, KEY),
        body={JSON: ReconnectOrder},
        body_optional=True,
        example={"reason": "the token is renewed"},
        answers={
            202: answer("Under way.", ConnectionRecord),
            200: answer("The new socket is ready.", ConnectionRecord, "Preference-Applied"),
        },
        problems=(
            *WORKER_PROBLEMS, "connection-not-found", "wrong-state", "connection-closed", "not-kept", "opening-timeout",
        ),
    ),
)  # fmt: skip
