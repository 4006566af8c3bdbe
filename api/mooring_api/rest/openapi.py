"""The API's description (OpenAPI 3.1), made from the Structs that decode and encode, and held to the route table by a test."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mooring.checks import NAME_PATTERN
from mooring.errors import ErrorEntry, Invalid
from mooring.events import KINDS
from mooring.link.messages import STATUSES
from mooring.options import ConnectionRequest
from mooring.version import __version__
from mooring_api.rest.problems import PREFIX, TYPES
from mooring_api.rest.schemas import MAX_PAGE, MAX_WAIT_S, CallRequest
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord
from mooring_service.service import Readiness

JSON = "application/json"
PROBLEM = "application/problem+json"
EVERYWHERE = ("unauthorized", "forbidden")
"""Problem types that every request with a token may get."""
HEADERS: dict[str, str] = {
    "Location": "Where the record is.",
    "Preference-Applied": "`respond-async`",
    "Idempotency-Replayed": "`true` where the answer is that of an earlier request with the same Idempotency-Key.",
    "WWW-Authenticate": "`Bearer`",
    "Retry-After": "Seconds after which to try again.",
}
"""Response headers, beside those that every answer has."""
PROBLEM_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",), 507: ("Retry-After",)}


class Operation(Struct, frozen=True, kw_only=True):
    """One row of the API: what it takes, what it answers."""

    summary: str
    detail: str = ""
    parameters: tuple[str, ...] = ()  # names in `PARAMETERS`
    body: dict[str, Any] | None = None  # media type → schema
    example: Any = None
    answers: dict[int, tuple[str, dict[str, Any]]] = {}  # status → description, media type → schema
    headers: dict[int, tuple[str, ...]] = {}
    problems: tuple[str, ...] = ()
    open: bool = False  # needs no token


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": schema, "description": description}


_CURSOR = "An event's id, `start` or `now`."
PARAMETERS: dict[str, dict[str, Any]] = {
    "id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}},
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
    },
    "worker": _query("worker", {"type": "string"}, "Only of this worker."),
    "status": _query("status", {"enum": list(STATUSES)}, "Only those with this status."),
    "limit": _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}, "Size of a page."),
    "afterId": _query("after", {"type": "integer", "minimum": 0}, "`next` of the page before."),
    "after": _query("after", {"type": "string"}, f"Where to begin: {_CURSOR}"),
    "wait": _query(
        "wait",
        {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S},
        "Pages: wait so many seconds for an event when there is none.",
    ),
    "connections": _query("connection", {"type": "string"}, "Only of these connections: ids, separated by commas."),
    "workers": _query("worker", {"type": "string"}, "Only of these workers: names, separated by commas."),
    "kinds": _query(
        "kind", {"type": "string"}, f"Only these kinds, separated by commas: {', '.join(kind.name for kind in KINDS)}."
    ),
    "lastEventId": _header("Last-Event-ID", f"As `after`, which it beats: {_CURSOR}", {"type": "string"}),
    "code": _query("code", {"type": "integer"}, "1000 (the default), or 3000 to 4999."),
    "reason": _query("reason", {"type": "string"}, "At most 123 bytes of UTF-8."),
    "prefer": _header("Prefer", "`respond-async`: answer 202 at once.", {"type": "string"}),
    "key": _header(
        "Idempotency-Key",
        "The same key and the same request within a day get the same answer, across a crash too.",
        {"type": "string", "minLength": 1, "maxLength": 255},
    ),
}

_PAGE = {
    "type": "object",
    "required": ["events", "next"],
    "properties": {
        "events": {"type": "array", "items": ref("Event")},
        "next": {"type": "string", "description": "What `after` takes to go on."},
    },
}
_STREAM: dict[str, Any] = {JSON: _PAGE, "text/event-stream": {"type": "string"}, "application/x-ndjson": ref("Event")}
_STREAMS = {
    200: ("One page (application/json), or a stream of events (text/event-stream, application/x-ndjson).", _STREAM),
    204: ("The stream has ended, and everything of it is known: do not come back.", {}),
}
_EVENT_PARAMETERS = ("after", "limit", "wait", "kinds", "lastEventId")
_CONNECT = ("connect-failed", "connect-timeout", "address-refused", "terminated", "worker-busy", "limit-reached")
_BODY = ("bad-request", "invalid", "too-large", "unsupported-media-type", "request-timeout")
_KEY = ("still-running", "key-reused")
_WORKER = ("worker-died", "worker-silent", "unavailable", "journal-unavailable")
_MESSAGE: dict[str, Any] = {
    "text/plain": {"type": "string"},
    "application/octet-stream": {"type": "string", "format": "binary"},
    JSON: {},
    "application/x-ndjson": {"type": "string"},
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/connections"): Operation(
        summary="Open a connection",
        detail="Answers once it is Connected. Only `url` is required; unknown keys are refused.",
        parameters=("prefer", "key"),
        body={JSON: ref("ConnectionRequest")},
        example={"url": "ws://127.0.0.1:8481/", "headers": {"Authorization": "Bearer …"}},
        answers={
            201: ("Connected.", {JSON: ref("ConnectionRecord")}),
            202: ("Connecting; its events will tell.", {JSON: ref("ConnectionRecord")}),
        },
        headers={201: ("Location",), 202: ("Location", "Preference-Applied")},
        problems=(*_BODY, *_CONNECT, *_KEY, *_WORKER, "unknown-function"),
    ),
    ("GET", "/v1/connections"): Operation(
        summary="List connections",
        parameters=("worker", "status", "limit", "afterId"),
        answers={200: ("By id.", {JSON: ref("ConnectionPage")})},
        problems=("invalid",),
    ),
    ("GET", "/v1/connections/{id}"): Operation(
        summary="Show a connection",
        detail="Closed ones too, while they are retained.",
        parameters=("id",),
        answers={200: ("The record.", {JSON: ref("ConnectionRecord")})},
        problems=("connection-not-found", "invalid"),
    ),
    ("DELETE", "/v1/connections/{id}"): Operation(
        summary="Terminate a connection",
        detail="Idempotent. Answers within closeTimeout and a second, whatever the peer does.",
        parameters=("id", "code", "reason"),
        answers={200: ("The final record.", {JSON: ref("ConnectionRecord")})},
        problems=("connection-not-found", "invalid", "worker-silent", "unavailable", "journal-unavailable"),
    ),
    ("POST", "/v1/connections/{id}/messages"): Operation(
        summary="Send a message",
        detail="The body is the message, and its content type says how it is sent. JSON is checked, and sent byte for byte as "
        "it came. application/x-ndjson sends one object per line, as the lines arrive; with an Idempotency-Key the whole body "
        "is taken first, and is bounded as any other.",
        parameters=("id", "key"),
        body=_MESSAGE,
        answers={200: ("Written to the socket.", {JSON: ref("SentRecord")})},
        problems=(
            *_BODY,
            *_KEY,
            *_WORKER,
            "connection-not-found",
            "wrong-state",
            "connection-closed",
            "peer-not-reading",
        ),
    ),
    ("GET", "/v1/connections/{id}/events"): Operation(
        summary="Follow a connection's events",
        detail="From its start, unless told otherwise; the stream ends after its last event.",
        parameters=("id", *_EVENT_PARAMETERS),
        answers=_STREAMS,
        problems=(
            "connection-not-found",
            "invalid",
            "not-acceptable",
            "limit-reached",
            "unavailable",
            "journal-unavailable",
        ),
    ),
    ("GET", "/v1/workers/{name}/events"): Operation(
        summary="Follow a worker's events",
        detail="From now, unless told otherwise.",
        parameters=("name", *_EVENT_PARAMETERS, "connections"),
        answers=_STREAMS,
        problems=("worker-not-found", "invalid", "not-acceptable", "limit-reached", "journal-unavailable"),
    ),
    ("GET", "/v1/events"): Operation(
        summary="Follow all events",
        detail="From now, unless told otherwise.",
        parameters=(*_EVENT_PARAMETERS, "connections", "workers"),
        answers=_STREAMS,
        problems=("invalid", "not-acceptable", "limit-reached", "journal-unavailable"),
    ),
    ("GET", "/v1/workers"): Operation(
        summary="List workers",
        answers={200: ("By name.", {JSON: ref("WorkerList")})},
        problems=("invalid",),
    ),
    ("GET", "/v1/workers/{name}"): Operation(
        summary="Show a worker",
        parameters=("name",),
        answers={200: ("The record.", {JSON: ref("WorkerRecord")})},
        problems=("worker-not-found", "invalid"),
    ),
    ("PUT", "/v1/workers/{name}"): Operation(
        summary="Have a worker Running",
        detail="Creates it, or restarts one that is Failed.",
        parameters=("name",),
        answers={
            200: ("It was there, or was restarted.", {JSON: ref("WorkerRecord")}),
            201: ("Created.", {JSON: ref("WorkerRecord")}),
        },
        headers={201: ("Location",)},
        problems=("invalid", "worker-busy", "limit-reached", *_WORKER),
    ),
    ("DELETE", "/v1/workers/{name}"): Operation(
        summary="Kill a worker",
        detail="The running callback ends, what is pending is discarded, connections are closed with 1001.",
        parameters=("name",),
        answers={200: ("What it cost.", {JSON: ref("Killed")})},
        problems=("worker-not-found", "invalid"),
    ),
    ("POST", "/v1/workers/{name}/drain"): Operation(
        summary="Drain a worker",
        detail="It takes no new connections, and is restarted when the last one has ended.",
        parameters=("name", "key"),
        answers={202: ("It drains.", {JSON: ref("WorkerRecord")})},
        problems=("worker-not-found", "bad-request", "invalid", *_KEY, "journal-unavailable"),
    ),
    ("POST", "/v1/workers/{name}/calls"): Operation(
        summary="Call a function in a worker",
        detail="Functions are named in the configuration. `params` go by keyword (object) or position (list).",
        parameters=("name", "prefer", "key"),
        body={JSON: ref("CallRequest")},
        example={"function": "add", "params": [1, 2]},
        answers={
            200: ("It has run.", {JSON: {"type": "object", "required": ["result"], "properties": {"result": {}}}}),
            202: ("It is queued.", {JSON: {"type": "object"}}),
        },
        headers={202: ("Preference-Applied",)},
        problems=(
            *_BODY,
            *_KEY,
            *_WORKER,
            "unknown-function",
            "handler-error",
            "call-raised",
            "worker-busy",
            "limit-reached",
        ),
    ),
    ("POST", "/v1/backup"): Operation(
        summary="Copy the journal",
        detail="A consistent copy, while the service runs; `mooring restore` starts from it. It changes nothing, so an "
        "Idempotency-Key is not looked at.",
        answers={200: ("The copy.", {"application/octet-stream": {"type": "string", "format": "binary"}})},
        problems=("invalid", "journal-unavailable"),
    ),
    ("GET", "/healthz"): Operation(
        summary="Alive", open=True, answers={200: ("This process answers.", {JSON: {"type": "object"}})}
    ),
    ("GET", "/readyz"): Operation(
        summary="Ready",
        detail="Without a token only `ready` is told.",
        open=True,
        answers={
            200: ("Requests can be served; `degraded` names Failed workers.", {JSON: ref("Readiness")}),
            503: ("They cannot; `reasons` says why.", {JSON: ref("Readiness")}),
        },
        headers={503: ("Retry-After",)},
    ),
    ("GET", "/metrics"): Operation(
        summary="Metrics for Prometheus", answers={200: ("Text exposition format.", {"text/plain": {"type": "string"}})}
    ),
    ("GET", "/openapi.json"): Operation(
        summary="This description", open=True, answers={200: ("OpenAPI 3.1.", {JSON: {"type": "object"}})}
    ),
}


def _event_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "kind", "time", "event"],
        "properties": {
            "id": {"type": "string", "description": "<epoch>-<position>"},
            "kind": {"enum": [kind.name for kind in KINDS]},
            "connection": {"type": "integer"},
            "worker": {"type": "string"},
            "seq": {"type": "integer", "description": "Counts a connection's events from 1, without holes."},
            "time": {"type": "string", "format": "date-time"},
            "event": {"description": "4D's $2.", "oneOf": [ref(info.event.__name__) for info in KINDS.values()]},
        },
    }


def _components() -> dict[str, Any]:
    structs = (
        *(info.event for info in KINDS.values()),
        ConnectionRequest,
        ConnectionRecord,
        WorkerRecord,
        SentRecord,
        Killed,
        CallRequest,
        Readiness,
        ErrorEntry,
        Invalid,
    )
    _, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    found["Readiness"]["required"] = ["ready"]
    for kind, info in KINDS.items():
        event = found[info.event.__name__]
        event["description"] = f"{kind.name}: {info.meaning}."
        event["properties"]["type"] = {"const": event["properties"]["type"]["default"]}
        event["properties"] |= {name: {"type": "string", "description": text} for name, text in info.in_json.items()}
        event["required"] = [field for field in event["properties"] if field not in info.in_json]
    found["Event"] = _event_schema()
    found["ConnectionPage"] = {
        "type": "object",
        "required": ["connections", "next"],
        "properties": {
            "connections": {"type": "array", "items": ref("ConnectionRecord")},
            "next": {"type": ["integer", "null"]},
        },
    }
    found["WorkerList"] = {
        "type": "object",
        "required": ["workers"],
        "properties": {"workers": {"type": "array", "items": ref("WorkerRecord")}},
    }
    found["Problem"] = {
        "type": "object",
        "description": "RFC 9457. `errors` holds pointers for invalid input, and 4D's list for a failed dial.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"enum": [PREFIX + name for name in TYPES]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"anyOf": [ref("Invalid"), ref("ErrorEntry")]}},
        },
    }
    return found


def _content(media: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": schema} for kind, schema in media.items()}
    if example is not None:
        for entry in content.values():
            entry["example"] = example
    return content


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (description, media) in operation.answers.items():
        responses[str(status)] = {"description": description}
        if media:
            responses[str(status)]["content"] = _content(media)
        replayed = ("Idempotency-Replayed",) if "key" in operation.parameters else ()
        _add_headers(responses[str(status)], (*operation.headers.get(status, ()), *replayed))
    names = operation.problems + (() if operation.open else EVERYWHERE)
    by_status: dict[int, list[str]] = {}
    for name in dict.fromkeys(names):
        by_status.setdefault(TYPES[name].status, []).append(name)
    for status, found in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(f"`{name}`: {TYPES[name].title}" for name in found),
            "content": _content({PROBLEM: ref("Problem")}),
        }
        _add_headers(responses[str(status)], PROBLEM_HEADERS.get(status, ()))
    return responses


def _add_headers(response: dict[str, Any], names: tuple[str, ...]) -> None:
    if names:
        response["headers"] = {name: {"schema": {"type": "string"}, "description": HEADERS[name]} for name in names}


def describe() -> dict[str, Any]:
    """Return the OpenAPI document of exactly what is served."""
    paths: dict[str, Any] = {}
    for (method, path), operation in OPERATIONS.items():
        found: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": f"{method.lower()}{''.join(part.strip('{}').capitalize() for part in path.split('/'))}",
            "responses": _responses(operation),
        }
        if operation.detail:
            found["description"] = operation.detail
        if operation.parameters:
            found["parameters"] = [PARAMETERS[name] for name in operation.parameters]
        if operation.body is not None:
            found["requestBody"] = {"required": True, "content": _content(operation.body, operation.example)}
        if operation.open:
            found["security"] = []
        paths.setdefault(path, {})[method.lower()] = found
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mooring",
            "version": __version__,
            "description": "Holds WebSocket connections for other programs.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": _components(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`mooring token` prints it."}
            },
        },
    }
