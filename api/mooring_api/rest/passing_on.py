"""A request that another node of the cluster has to do: passed on as it is, and its answer handed back.

Owns deadlines and retries of that, and cuts a stream of lines into pieces. Which node it is, `clustered` knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mooring.checks import REPLY_TIMEOUT_S
from mooring.deadline import within
from mooring.options import ConnectionRequest
from mooring_api.rest import routes
from mooring_api.rest.body import read_body
from mooring_api.rest.context import API
from mooring_api.rest.kept import wait_of
from mooring_api.rest.problems import PREFIX, Problem, problem_of
from mooring_api.rest.schemas import media_type
from mooring_service.cluster_errors import EngineDown, NodeSilent, NodeUnreachable
from mooring_service.opening import SILENT_S

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

FORWARDED = "Mooring-Forwarded"
PASSED_ON = ("Content-Type", "Accept", "Prefer", "Idempotency-Key")
VERB_S = 15.0  # what no word of the request makes longer
LOOK_S = 1.0
LINES_BYTES = 512 * 1024  # of a stream of lines, so much goes on at once
LINES_IDLE_S = 300.0

Answered = tuple[int, list[tuple[str, str]], bytes]


class Moved(Exception):
    """The node that was asked says that another one has it."""

    def __init__(self, node: str) -> None:
        self.node = node


async def look(request: web.Request, node: str, cluster: Membership) -> web.Response | None:
    """Return what the holder says of something; None if it does not say it within a second."""
    try:
        answered = await cluster.forward(node, "GET", request.raw_path, _headers(request, cluster), b"", LOOK_S)
    except (EngineDown, NodeUnreachable, NodeSilent):
        return None
    return None if answered[0] >= 500 else _response(answered)


async def pass_on(request: web.Request, node: str, cluster: Membership) -> web.Response:
    """Have another node answer a request.

    Raises:
        Moved: If that node says that another one has it.
        EngineDown, NodeUnreachable, NodeSilent: As they say.
        Problem: If the body cannot be read.
    """
    kind = media_type(request.headers.get("Content-Type"))
    if kind == routes.NDJSON and "Idempotency-Key" not in request.headers and not request.content.is_eof():
        return await _pass_lines_on(request, node, cluster)
    body = await read_body(request)
    answered = await cluster.forward(
        node, request.method, request.raw_path, _headers(request, cluster), body, deadline_s(request, body)
    )
    _check_moved(answered)
    return _response(answered)


def _headers(request: web.Request, cluster: Membership) -> list[tuple[str, str]]:
    found = [(name, request.headers[name]) for name in PASSED_ON if name in request.headers]
    return [*found, (FORWARDED, cluster.node)]


def _response(answered: Answered) -> web.Response:
    status, headers, data = answered
    response = web.Response(status=status, body=data)
    response.headers.pop("Content-Type", None)
    for name, value in headers:
        response.headers.add(name, value)
    return response


def _members(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def _check_moved(answered: Answered) -> None:
    if answered[0] == 409:
        members = _members(answered[2])
        if members.get("type") == f"{PREFIX}worker-elsewhere" and "asked" not in members:
            raise Moved(str(members["node"]))


def deadline_s(request: web.Request, body: bytes) -> float:
    """Return how long the verb of a request may take at most, where it is done."""
    config, path, method = request.app[API].config, request.path, request.method
    if method == "PUT" and path.startswith("/v1/workers/"):
        return config.supervisor.start_timeout + VERB_S
    if path.endswith("/calls"):
        return config.supervisor.call_timeout
    if path.endswith("/requests"):
        try:
            return float(request.query.get("timeout", REPLY_TIMEOUT_S)) + VERB_S
        except ValueError:
            return VERB_S
    if path.endswith("/reconnect"):
        return (wait_of(request) or 0) + VERB_S
    if method == "PUT" or path == "/v1/connections":
        try:
            asked = msgspec.json.decode(body, type=ConnectionRequest)
            return request.app[API].service.connections.asked_timeout_s(asked) + SILENT_S
        except (msgspec.MsgspecError, ValueError, TypeError):
            return VERB_S  # it is refused there
    return VERB_S


async def _pass_lines_on(request: web.Request, node: str, cluster: Membership) -> web.Response:
    """Pass a stream of lines on in pieces, each of whole lines, one behind the other: what was `sent` is added up."""
    totals = {"sent": 0, "queued": 0, "bytes": 0}
    answered: Answered | None = None
    async for piece in _pieces(request):
        try:
            answered = await cluster.forward(
                node, request.method, request.raw_path, _headers(request, cluster), piece, VERB_S + LINES_IDLE_S
            )
            if not totals["sent"] and not totals["queued"]:
                _check_moved(answered)
        except (EngineDown, NodeUnreachable, NodeSilent) as exc:
            problem = problem_of(exc)
            problem.extra.update(sent=totals["sent"])
            raise problem from exc
        members = _members(answered[2])
        for name in totals:
            totals[name] += int(members.get(name) or 0)
        if answered[0] >= 300:
            break
    if answered is None:
        answered = await cluster.forward(
            node, request.method, request.raw_path, _headers(request, cluster), b"", VERB_S
        )
        return _response(answered)
    status, headers, data = answered
    members = _members(data)
    if status >= 300 and not totals["sent"] and not totals["queued"]:
        return _response(answered)
    members["sent"] = totals["sent"]
    if status < 300:
        members["bytes"] = totals["bytes"]
    if totals["queued"]:
        members["queued"] = totals["queued"]
        status = 202 if status == 200 else status
    return _response((status, headers, msgspec.json.encode(members)))


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    held: list[bytes] = []
    size = 0
    limit = request.app[API].config.limits.max_body_bytes
    while True:
        try:
            async with within(LINES_IDLE_S):
                chunk = await request.content.readany()
        except TimeoutError:
            raise Problem("request-timeout", "the next line did not come in time") from None
        if not chunk:
            break
        head, separator, tail = chunk.rpartition(b"\n")
        held.append(head + separator if separator else tail)
        size += len(held[-1])
        if separator:
            yield b"".join(held)
            held, size = ([tail], len(tail)) if tail else ([], 0)
        if size > limit:
            raise Problem("too-large", f"a line is longer than {limit} bytes (limits.max_body_bytes)")
    if held:
        yield b"".join(held)
