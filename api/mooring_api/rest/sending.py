"""What is sent over a connection: messages, one or a stream of them, and what waits of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mooring.deadline import within
from mooring.errors import MooringError, SendError, WorkerDied, WorkerSilent
from mooring.kept_events import QueuedRecord
from mooring.send_errors import SendUncertain
from mooring_api.rest import idempotency, routes
from mooring_api.rest.body import BODY_TIMEOUT_S, check_uncompressed, read_body
from mooring_api.rest.connections import WORKER_PROBLEMS
from mooring_api.rest.context import API, Api, connection_of
from mooring_api.rest.problems import Problem, problem_of
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import BYTES, JSON, KEY, NDJSON, TEXT, Parameter, Route, answer
from mooring_api.rest.schemas import check_json, check_text, invalid, media_type
from mooring_service.records import QueuedSendRecord, SentRecord, Waiting

NDJSON_BATCH_BYTES = 256 * 1024  # lines that are there already go to the worker together, up to this size
NDJSON_BATCH_LINES = 1_000
LINE_IDLE_S = 300.0  # a stream of lines may pause for so long


class Tally(msgspec.Struct):
    """What became of a stream of lines so far. `queue_id` and `expires_at` of the first that waits.

    `uncertain`: so many may have been sent, behind those that were.
    """

    sent: int = 0
    queued: int = 0
    bytes: int = 0
    queue_id: int = 0
    expires_at: str = ""
    uncertain: int = 0

    def add(self, record: SentRecord | QueuedSendRecord) -> None:
        """Count what became of some lines."""
        self.bytes += record.bytes
        if isinstance(record, SentRecord):
            self.sent += record.sent
            return
        if not self.queued:
            self.queue_id, self.expires_at = record.queue_id, record.expires_at
        self.queued += record.queued
        if isinstance(record.sent, int):  # as another node of a cluster has added it up
            self.sent += record.sent

    @property
    def so_far(self) -> dict[str, Any]:
        """What a problem says of it."""
        found = {"sent": self.sent, "queued": self.queued, "uncertain": self.uncertain}
        return {name: count for name, count in found.items() if count or name == "sent"}

    def response(self) -> web.Response:
        """Return the answer at the end of the stream."""
        if not self.queued:
            return json_response(SentRecord(self.sent, self.bytes))
        return json_response(QueuedSendRecord(self.queued, self.bytes, self.queue_id, self.expires_at, self.sent), 202)


def waiting_of(query: Mapping[str, str]) -> Waiting:
    """Return what a query says of waiting.

    Raises:
        Problem: 422 if ``ttl`` is no number.
    """
    ttl = query.get("ttl")
    try:
        return Waiting(query.get("whenDown"), None if ttl is None else float(ttl))
    except ValueError:
        raise invalid("query:ttl", "must be 0.1 to 86400 seconds") from None


def _answer(record: SentRecord | QueuedSendRecord) -> web.Response:
    return json_response(record, 202 if isinstance(record, QueuedSendRecord) else 200)


async def send(request: web.Request) -> web.Response:
    """``POST /v1/connections/{id}/messages``: the body is the message."""
    api = request.app[API]
    connection = connection_of(request)
    waiting = waiting_of(request.query)
    kind = media_type(request.headers.get("Content-Type"))
    key = idempotency.key_of(request) if "Idempotency-Key" in request.headers else None
    if kind == NDJSON and key is None:
        with api.access.held(request, "send"):
            return await _send_lines(api, request, connection, waiting)
    body = await read_body(request)
    if kind == NDJSON:
        payloads = _check_lines(api, body)
    else:
        payloads = [body]
        match kind:
            case routes.TEXT:
                check_text(body)
            case routes.JSON:
                check_json(body)
    binary = kind == BYTES
    if key is None:
        return _answer(await api.service.sending.send(connection, binary=binary, payloads=payloads, waiting=waiting))
    worker_key = f"{connection}:{key}"

    async def work(begun: int | None) -> web.Response:
        try:
            return _answer(
                await api.service.sending.send(
                    connection, binary=binary, payloads=payloads, key=worker_key, waiting=waiting
                )
            )
        except MooringError as exc:
            raise problem_of(exc) from exc

    return await api.finish(idempotency.once(request, key, body, work))


def _check_lines(api: Api, body: bytes) -> list[bytes]:
    lines = [line.strip(b"\r\t ") for line in body.split(b"\n")]
    for number, line in enumerate(lines, 1):
        if line:
            check_json(line, f"line {number}", sent=0)
    return [line for line in lines if line]


async def _send_lines(api: Api, request: web.Request, connection: int, waiting: Waiting) -> web.Response:
    """Stream objects, one a line: what has come is sent, together, before more is read."""
    check_uncompressed(request)
    api.service.sending.check(connection, waiting)
    limit = api.config.limits.max_body_bytes
    loop = asyncio.get_running_loop()
    tally, number = Tally(), 0
    pieces: list[bytes] = []  # of the line that has not ended yet: joined once, in however many chunks it comes
    held = 0  # bytes of them
    deadline = loop.time() + LINE_IDLE_S
    ended = False
    while not ended:
        try:
            async with within(deadline - loop.time()):
                chunk = await request.content.readany()
        except TimeoutError:
            raise Problem("request-timeout", "the next line did not come in time", **tally.so_far) from None
        except (HttpProcessingError, web.RequestPayloadError):
            raise Problem("bad-request", "the body's chunks cannot be parsed", **tally.so_far) from None
        ended = not chunk
        *lines, tail = chunk.split(b"\n")
        if ended:
            lines = [b"".join(pieces)]
        elif lines:
            lines[0] = b"".join([*pieces, lines[0]])
        if lines:
            pieces, held = [], 0
        begins = not held
        pieces.append(tail)
        held += len(tail)
        batch: list[bytes] = []
        batch_bytes = 0
        problem: Problem | None = None
        for line in lines:
            number += 1
            line = line.strip(b"\r\t ")
            if not line:
                continue
            problem = _wrong_line(line, number, limit)
            if problem is not None:
                break
            batch.append(line)
            batch_bytes += len(line)
            if batch_bytes >= NDJSON_BATCH_BYTES or len(batch) >= NDJSON_BATCH_LINES:
                await _send_batch(api, connection, batch, waiting, tally)
                batch, batch_bytes = [], 0
        await _send_batch(api, connection, batch, waiting, tally)
        if problem is None and held > limit:
            problem = _too_long(number + 1, limit)
        if problem is not None:
            problem.extra.update(tally.so_far)
            raise problem
        if begins:
            deadline = loop.time() + (BODY_TIMEOUT_S if tail else LINE_IDLE_S)
    return tally.response()


def _wrong_line(line: bytes, number: int, limit: int) -> Problem | None:
    if len(line) > limit:
        return _too_long(number, limit)
    try:
        check_json(line, f"line {number}")
    except Problem as problem:
        return problem
    return None


def _too_long(number: int, limit: int) -> Problem:
    return Problem("too-large", f"line {number} is longer than {limit} bytes (limits.max_body_bytes)")


async def _send_batch(api: Api, connection: int, batch: list[bytes], waiting: Waiting, tally: Tally) -> None:
    if not batch:
        return
    try:
        tally.add(await api.service.sending.send(connection, binary=False, payloads=batch, waiting=waiting))
    except MooringError as exc:
        match exc:
            case SendError():
                tally.sent += exc.sent
            case SendUncertain():
                tally.sent += exc.sent
                tally.uncertain = exc.uncertain
            case WorkerDied() | WorkerSilent():
                tally.uncertain = len(batch)
        problem = problem_of(exc)
        problem.extra.update(tally.so_far)
        raise problem from exc


async def drop_queue(request: web.Request) -> web.Response:
    """``DELETE /v1/connections/{id}/queue``."""
    api = request.app[API]
    connection = connection_of(request)
    try:
        return json_response(await api.finish(api.service.sending.drop_queue(connection)))
    except MooringError as exc:
        raise problem_of(exc) from exc


ROUTES = (
    Route(
        "POST", "/v1/connections/{id}/messages", send, "send",
        summary="Send a message",
        detail="The body is the message, and its content type says how it is sent. JSON is checked, and sent byte for byte as "
        "it came. application/x-ndjson sends one object per line, as the lines arrive; with an Idempotency-Key the whole body "
        "is taken first, and is bounded as any other. While a kept connection is down the message is refused, or waits, as "
        "`whenDown` says; of ndjson, 202 says how many were `sent` and how many `queued`.",
        headers=(KEY,),
        query=(
            Parameter("whenDown", {"enum": ["fail", "queue"]}, "Instead of what the connection was opened with."),
            Parameter("ttl", {"type": "number", "minimum": 0.1, "maximum": 86400}, "Likewise instead of `queueTtl`: seconds."),
        ),
        body={TEXT: {"type": "string"}, BYTES: {"type": "string", "format": "binary"}, JSON: {}, NDJSON: {"type": "string"}},
        answers={
            200: answer("Written to the socket.", SentRecord),
            202: answer("It waits until the connection is ready, and is sent then, in order.", QueuedSendRecord),
        },
        problems=(
            *WORKER_PROBLEMS, "connection-not-found", "wrong-state", "connection-closed", "peer-not-reading", "not-kept",
            "queue-full", "send-timeout", "send-uncertain",
        ),
    ),
    Route(
        "DELETE", "/v1/connections/{id}/queue", drop_queue, "send",
        summary="Drop what waits to be sent",
        detail="One `onUnsent` tells which messages it was.",
        answers={200: answer("What it was.", QueuedRecord)},
        problems=(*WORKER_PROBLEMS, "connection-not-found", "connection-closed", "not-kept"),
    ),
)  # fmt: skip
