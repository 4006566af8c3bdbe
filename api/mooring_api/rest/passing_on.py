"""A request that another node of the cluster has to do: passed on as it is, and its answer handed back.

Owns deadlines and retries of that, and cuts a stream of lines into pieces. Which node it is, `clustered` knows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mooring.checks import MAX_TIMEOUT_S, REPLY_TIMEOUT_S
from mooring.deadline import within
from mooring.errors import UnknownConnection
from mooring.link.record import ConnectionCreated
from mooring.options import MAX_DURATION_S, ConnectionRequest
from mooring_api.rest import routes
from mooring_api.rest.body import BODY_TIMEOUT_S, check_uncompressed, read_body
from mooring_api.rest.context import API, connection_of, pattern_of
from mooring_api.rest.kept import wait_of
from mooring_api.rest.problems import PREFIX, Problem, problem_of
from mooring_api.rest.schemas import media_type
from mooring_api.rest.sending import LINE_IDLE_S, Tally
from mooring_service.cluster_errors import EngineDown, NodeSilent, NodeUnreachable
from mooring_service.opening import SILENT_S
from mooring_service.records import QueuedSendRecord, SentRecord

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

FORWARDED = "Mooring-Forwarded"
PASSED_ON = ("Content-Type", "Accept", "Prefer", "Idempotency-Key")
VERB_S = 15.0  # what nothing makes longer
MARGIN_S = 5.0  # for the way of what the connection's own timeouts make longer
LOOK_S = 1.0
MAX_OPENING_S = 100 * MAX_DURATION_S  # of a dial and all steps: more than any may take
_LINE = re.compile(r"\Aline ([0-9]+) ")  # which one is wrong, counted in what was passed on

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
    supervisor = request.app[API].config.supervisor
    match request.method, pattern_of(request):  # not by the end of the path: a name may be a verb's word
        case "PUT", "/v1/workers/{name}":
            return supervisor.start_timeout + VERB_S
        case "DELETE", "/v1/workers/{name}":
            return supervisor.stop_timeout + 2 * supervisor.kill_timeout + VERB_S
        case "POST", "/v1/workers/{name}/calls":
            return supervisor.call_timeout
        case "POST", "/v1/connections/{id}/messages":
            lines = media_type(request.headers.get("Content-Type")) == routes.NDJSON
            return _send_s(request) + (LINE_IDLE_S if lines else 0.0)  # many sends
        case "POST", "/v1/connections/{id}/requests":
            return _reply_s(request)
        case "POST", "/v1/connections/{id}/reconnect":
            return (wait_of(request) or 0) + VERB_S
        case "DELETE", "/v1/connections/{id}":
            return max(VERB_S, _close_s(request))
        case "PUT", "/v1/connections/{id}":
            return _opening_s(request, body) + _close_s(request)  # who had the name may be closing
        case "POST", "/v1/connections":
            return _opening_s(request, body)
    return VERB_S


def _reply_s(request: web.Request) -> float:
    try:
        asked_s = float(request.query.get("timeout", REPLY_TIMEOUT_S))
    except ValueError:
        return VERB_S
    return _in_bounds(asked_s, MAX_TIMEOUT_S) + VERB_S


def _opening_s(request: web.Request, body: bytes) -> float:
    try:
        asked = msgspec.json.decode(body, type=ConnectionRequest)
        asked_s = request.app[API].service.connections.asked_timeout_s(asked)
        return _in_bounds(asked_s, MAX_OPENING_S) + SILENT_S
    except (msgspec.MsgspecError, ValueError, TypeError):
        return VERB_S  # it is refused there


def _created(request: web.Request) -> ConnectionCreated | None:
    """Return what is known of the connection that a request names."""
    cluster = request.app[API].service.cluster
    assert cluster is not None, "nothing else is passed on"
    try:
        return cluster.directory.entry(connection_of(request)).created
    except UnknownConnection:
        return None


def _send_s(request: web.Request) -> float:
    created = _created(request)
    return VERB_S if created is None else max(VERB_S, created.send_timeout_s + MARGIN_S)


def _close_s(request: web.Request) -> float:
    created = _created(request)
    return 0.0 if created is None else created.close_timeout_s + MARGIN_S


def _in_bounds(asked_s: float, most_s: float) -> float:
    return asked_s if 0 <= asked_s <= most_s else 0.0  # else, and what is no number: it is refused there


async def _pass_lines_on(request: web.Request, node: str, cluster: Membership) -> web.Response:
    """Pass a stream of lines on in pieces, each of whole lines, one behind the other: what became of them is added up."""
    check_uncompressed(request)
    path, deadline = _path_of_id(request), _send_s(request) + LINE_IDLE_S
    tally, lines = Tally(), 0
    piece: bytes | None = None
    try:
        with request.app[API].access.held(request, "send"):
            async for piece in _pieces(request):
                answered = await _pass_piece_on(request, node, cluster, path, piece, deadline)
                if answered[0] >= 300:
                    return _refused(answered, tally, lines)
                kind: type[SentRecord | QueuedSendRecord] = QueuedSendRecord if answered[0] == 202 else SentRecord
                tally.add(msgspec.json.decode(answered[2], type=kind))
                lines += piece.count(b"\n")
            if piece is None:
                return _response(await _pass_piece_on(request, node, cluster, path, b"", deadline))
    except (EngineDown, NodeUnreachable, NodeSilent) as exc:
        if isinstance(exc, NodeSilent) and piece is not None:
            tally.uncertain = sum(1 for line in piece.split(b"\n") if line.strip(b"\r\t "))
        problem = problem_of(exc)
        problem.extra.update(tally.so_far)
        raise problem from exc
    except Problem as problem:
        problem.extra.update(tally.so_far)
        raise
    return tally.response()


def _path_of_id(request: web.Request) -> str:
    """Return the path of a request by what a name means now: later another connection may have it."""
    created, query = _created(request), request.raw_path.partition("?")[2]
    if created is None:
        return request.raw_path
    return f"/v1/connections/{created.id}/messages{'?' if query else ''}{query}"


async def _pass_piece_on(
    request: web.Request, node: str, cluster: Membership, path: str, piece: bytes, deadline: float
) -> Answered:
    answered = await cluster.forward(node, "POST", path, _headers(request, cluster), piece, deadline)
    try:
        _check_moved(answered)
    except Moved as exc:
        # Nothing of the piece was done, and it is in hand: who asks again elsewhere would go on behind it.
        raise NodeUnreachable(exc.node) from None
    return answered


def _refused(answered: Answered, tally: Tally, lines: int) -> web.Response:
    """Return the answer to a piece behind so many `lines` as that to the whole stream."""
    if not lines:
        return _response(answered)
    status, headers, data = answered
    members = _members(data)
    before = tally.so_far
    for name in ("sent", "queued"):
        if count := before.get(name, 0) + int(members.get(name) or 0):
            members[name] = count
    members["detail"] = _LINE.sub(lambda found: f"line {int(found[1]) + lines} ", str(members.get("detail", "")))
    return _response((status, headers, msgspec.json.encode({"sent": 0, **members})))


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    held: list[bytes] = []  # of the line that has not ended yet
    size = 0
    limit = request.app[API].config.limits.max_body_bytes
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LINE_IDLE_S
    while True:
        try:
            async with within(deadline - loop.time()):
                chunk = await request.content.readany()
        except TimeoutError:
            raise Problem("request-timeout", "the next line did not come in time") from None
        except (HttpProcessingError, web.RequestPayloadError):
            raise Problem("bad-request", "the body's chunks cannot be parsed") from None
        if not chunk:
            break
        begins = not held
        head, separator, tail = chunk.rpartition(b"\n")
        if separator:
            begins = True
            yield b"".join([*held, head, separator])
            held, size = [], 0
        if tail:
            held.append(tail)
            size += len(tail)
        if size > limit:
            raise Problem("too-large", f"a line is longer than {limit} bytes (limits.max_body_bytes)")
        if begins:
            deadline = loop.time() + (BODY_TIMEOUT_S if held else LINE_IDLE_S)
    if held:
        yield b"".join(held)
