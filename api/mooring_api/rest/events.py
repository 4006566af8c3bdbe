"""The event streams: one shape of event, as SSE, as lines, or as a page with long-poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from mooring.checks import is_connection_name
from mooring.errors import JournalUnavailable, Unavailable, UnknownWorker
from mooring.events import Kind
from mooring_api.rest import sse
from mooring_api.rest.connections import LIMIT
from mooring_api.rest.context import API, connection_by, connection_of
from mooring_api.rest.live import LiveSink
from mooring_api.rest.routes import EVENT_STREAM, JSON, NDJSON, Answer, Parameter, Route, ref
from mooring_api.rest.schemas import (
    MAX_PAGE,
    MAX_WAIT_S,
    invalid,
    kinds_of,
    query_int,
    query_wait,
    wants,
    worker_names,
)
from mooring_service.feed import Gap, Selection, Stopped, Subscription
from mooring_service.journal.batch import EventFilter
from mooring_service.journal.cursor import MAX_CURSOR_CHARS
from mooring_service.reading import Reading
from mooring_service.render import objects

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}

PAGE_BYTES = 8 * 1024 * 1024
"""A page ends before it would be larger, but for one event that is by itself; `next` goes on."""

log = logging.getLogger("mooring.api")

Render = Callable[[Selection | Gap, bytes], bytes]
Subscribe = Callable[[str | None, bool], Subscription]
"""Cursor, and whether the subscription is brief."""
Items = list[Selection | Gap] | None


async def of_everything(request: web.Request) -> web.StreamResponse:
    """``GET /v1/events``."""
    query = request.query
    connections = frozenset(
        _filter_id(request, part) for value in query.getall("connection", []) for part in value.split(",")
    )
    workers = worker_names(query.getall("worker", []))
    events = EventFilter(connections, workers, kinds_of(query.getall("kind", [])))
    reading = reading_of(request)
    return await _answer(request, reading, lambda cursor, brief: reading.subscribe(events, cursor, brief=brief))


async def of_worker(request: web.Request) -> web.StreamResponse:
    """``GET /v1/workers/{name}/events``."""
    query = request.query
    name = request.match_info["name"]
    service, reading = request.app[API].service, reading_of(request)
    if not service.workers.has(name) and not reading.has_worker(name):
        raise UnknownWorker(name)
    connections = frozenset(
        _filter_id(request, part) for value in query.getall("connection", []) for part in value.split(",")
    )
    events = EventFilter(connections, frozenset((name,)), kinds_of(query.getall("kind", [])))
    return await _answer(request, reading, lambda cursor, brief: reading.subscribe(events, cursor, brief=brief))


async def of_connection(request: web.Request) -> web.StreamResponse:
    """``GET /v1/connections/{id}/events``: ends when the connection has ended."""
    query = request.query
    connection = connection_of(request)
    kinds = kinds_of(query.getall("kind", []))
    reading = reading_of(request)
    reading.record(connection)
    return await _answer(request, reading, lambda cursor, brief: reading.follow(connection, cursor, kinds, brief=brief))


def reading_of(request: web.Request) -> Reading:
    """Return what is read: of all nodes, or with ``?scope=node`` of this one, with its own ids."""
    service = request.app[API].service
    scope = request.query.get("scope")
    if scope not in (None, "node"):
        raise invalid("query:scope", "must be node")
    return service.reading if scope is None else service.here


def _filter_id(request: web.Request, text: str) -> int:
    if is_connection_name(text):
        return connection_by(request, text)
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise invalid("query:connection", "must be a connection's id, or its name")
    return int(text)


async def _answer(request: web.Request, reading: Reading, subscribe: Subscribe) -> web.StreamResponse:
    kind = wants(", ".join(request.headers.getall("Accept", ())), (JSON, EVENT_STREAM, NDJSON))
    # An empty header is none: some clients send it before they have seen an event.
    cursor = request.headers.get("Last-Event-ID") or request.query.get("after")
    if cursor is not None and len(cursor) > MAX_CURSOR_CHARS:
        cursor = cursor[:MAX_CURSOR_CHARS]
    if cursor is not None:
        cursor = cursor.encode("utf-8", "replace").decode()
    if cursor not in (None, "", "start", "now"):
        await reading.meet(cursor)
    if kind == JSON and "wait" not in request.query:
        return await _page(request, subscribe, cursor or None)
    with request.app[API].access.held(request, "read"):
        return await _answer_as(kind, request, subscribe, cursor or None)


async def _answer_as(kind: str, request: web.Request, subscribe: Subscribe, cursor: str | None) -> web.StreamResponse:
    if kind == JSON:
        return await _page(request, subscribe, cursor)
    for name in ("limit", "wait"):
        if name in request.query:
            raise invalid(f"query:{name}", "is for pages (Accept: application/json)")
    with subscribe(cursor, False) as subscription:
        first: Items = []
        if subscription.ended:
            # Resuming past the last event that is wanted: 204 stops an EventSource, which would come again for ever.
            try:
                first = await subscription.next(None)  # it does not wait: there is an end
            except Stopped:
                raise Unavailable("the service is stopping") from None
            if first is None:
                return web.Response(status=204, headers=HEADERS)
        if kind == EVENT_STREAM:
            return await _stream(request, subscription, first, kind, sse.sse, sse.PREAMBLE, sse.KEEP_ALIVE)
        return await _stream(request, subscription, first, kind, sse.ndjson, b"", b"")


async def _page(request: web.Request, subscribe: Subscribe, cursor: str | None) -> web.Response:
    limit = query_int(request.query, "limit", 100, 1, MAX_PAGE)
    wait_s = query_wait(request.query)
    found: list[bytes] = []
    room = PAGE_BYTES
    with subscribe(cursor, not wait_s) as subscription:
        following = subscription.cursor
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            items: Items
            try:
                if found or not wait_s:
                    items = await subscription.take_more()
                else:
                    items = await subscription.next(max(0.0, deadline - loop.time()))
            except Stopped:
                items = None
            for item in items or ():
                for position, event in objects(item, subscription.epoch):
                    if len(found) == limit or (found and len(event) > room):
                        room = -1
                        break
                    found.append(event)
                    room -= len(event)
                    following = position
                if room < 0:
                    break
            if room < 0 or len(found) == limit:
                break
            following = max(following, subscription.cursor)
            if not items:
                break
    body = b'{"events":[%b],"next":"%b-%d"}' % (b",".join(found), subscription.epoch, following)
    return web.Response(body=body, content_type=JSON, headers=HEADERS)


async def _stream(
    request: web.Request,
    subscription: Subscription,
    items: Items,
    kind: str,
    render: Render,
    preamble: bytes,
    keep_alive: bytes,
) -> web.StreamResponse:
    """Write `items`, then events as they come. A peer that goes away cancels this; one that does not read meets the deadline."""
    api = request.app[API]
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": f"{kind}; charset=utf-8"})
    if request.version >= HttpVersion11:  # proxies may speak 1.0 to us, which ends a body by closing
        response.enable_chunked_encoding()  # a clean end of body can then be told from a cut one
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    heartbeat_s = api.config.api.heartbeat
    writing = api.stalls.watch(request.transport)
    sink = LiveSink(request, response, lambda item: render(item, subscription.epoch))
    try:
        if preamble:
            with writing:
                await response.write(preamble)
        while True:
            if items:
                data = [render(item, subscription.epoch) for item in items]
                items.clear()
                with writing:
                    await response.write(data[0] if len(data) == 1 else b"".join(data))
            try:
                items = await subscription.next(heartbeat_s, sink=sink)
            except Stopped:
                break
            if items is None:
                break
            if not items and keep_alive:
                with writing:
                    await response.write(keep_alive)
        with writing:
            await response.write_eof()
    except ConnectionError:
        pass  # it does not read, and was cut off, or is gone: it may resume from its last id
    except JournalUnavailable as exc:
        # The answer has begun: a body that is cut, not ended, is all that can be said.
        log.error("an event stream was cut off: %s", exc)
        if request.transport is not None:
            request.transport.abort()
    return response


_CURSOR = "An event's id, `start` or `now`."
_AFTER = Parameter("after", {"type": "string"}, f"Where to begin: {_CURSOR}", opaque=True)  # what is no cursor is a gap
_WAIT = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S},
    "Pages: wait so many seconds for an event when there is none.",
)
_KINDS = Parameter(
    "kind",
    {"type": "string"},
    f"Only these kinds, separated by commas: {', '.join(Kind.__members__)}.",
    repeatable=True,
)
_CONNECTIONS = Parameter(
    "connection",
    {"type": "string"},
    "Only of these connections: ids or names, separated by commas; a name means the connection that has it when the request begins.",
    repeatable=True,
)
_WORKERS = Parameter(
    "worker", {"type": "string"}, "Only of these workers: names, separated by commas.", repeatable=True
)
_LAST_EVENT_ID = Parameter("Last-Event-ID", {"type": "string"}, f"As `after`, which it beats: {_CURSOR}")
_SCOPE = Parameter(
    "scope",
    {"enum": ["node"]},
    "`node`: the service's own events, under its own ids; else, in a cluster, those of all nodes.",
)
_QUERY = (_AFTER, LIMIT, _WAIT, _KINDS, _SCOPE)
_PAGE = {
    "type": "object",
    "required": ["events", "next"],
    "properties": {
        "events": {"type": "array", "items": ref("Event")},
        "next": {"type": "string", "description": "What `after` takes to go on."},
    },
}
_ANSWERS = {
    200: Answer(
        "One page (application/json), or a stream of events (text/event-stream, application/x-ndjson).",
        {JSON: _PAGE, EVENT_STREAM: {"type": "string"}, NDJSON: ref("Event")},
    )
}
_END = {204: Answer("The stream has ended, and everything of it is known: do not come back.")}
_PROBLEMS = ("not-acceptable", "limit-reached", "unavailable", "journal-unavailable")

ROUTES = (
    Route(
        "GET", "/v1/connections/{id}/events", of_connection, "read",
        summary="Follow a connection's events",
        detail="From its start, unless told otherwise; the stream ends after its last event.",
        query=_QUERY,
        headers=(_LAST_EVENT_ID,),
        answers=_ANSWERS | _END,
        problems=("connection-not-found", *_PROBLEMS),
    ),
    Route(
        "GET", "/v1/workers/{name}/events", of_worker, "read",
        summary="Follow a worker's events",
        detail="From now, unless told otherwise.",
        query=(*_QUERY, _CONNECTIONS),
        headers=(_LAST_EVENT_ID,),
        answers=_ANSWERS,
        problems=("worker-not-found", *_PROBLEMS),
    ),
    Route(
        "GET", "/v1/events", of_everything, "read",
        summary="Follow all events",
        detail="From now, unless told otherwise.",
        query=(*_QUERY, _CONNECTIONS, _WORKERS),
        headers=(_LAST_EVENT_ID,),
        answers=_ANSWERS,
        problems=_PROBLEMS,
    ),
)  # fmt: skip
