"""The API's description (OpenAPI 3.1), made from the rows that are served and the Structs that decode and encode. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

from mooring.errors import ErrorEntry, Invalid
from mooring.events import KINDS
from mooring.version import __version__
from mooring_api.rest.problems import PREFIX, TYPES
from mooring_api.rest.routes import KEY, Parameter, Route, Shape, ref

PROBLEM = "application/problem+json"
HEADERS: dict[str, str] = {
    "Location": "Where the record is.",
    "Preference-Applied": "`respond-async`",
    "Idempotency-Replayed": "`true` where the answer is that of an earlier request with the same Idempotency-Key.",
    "WWW-Authenticate": "`Bearer`",
    "Retry-After": "Seconds after which to try again.",
    "Mooring-Committed": "In a cluster: `cluster` if every node can show what was done, `node` if that takes longer than two seconds. Not of a "
    "message without an Idempotency-Key.",
}
"""Response headers, beside those that every answer has."""

_EVENT = {
    "type": "object",
    "required": ["id", "kind", "time", "event"],
    "properties": {
        "id": {"type": "string", "description": "<epoch>-<position>"},
        "kind": {"enum": [kind.name for kind in KINDS]},
        "connection": {
            "type": "integer",
            "description": "Not in events of a worker as a whole, of a hook or a node, nor in a gap.",
        },
        "worker": {"type": "string", "description": "Not in events of a hook or a node, nor in a gap."},
        "seq": {"type": "integer", "description": "Counts a connection's events from 1, without holes."},
        "time": {"type": "string", "format": "date-time"},
        "event": {"description": "4D's $2.", "oneOf": [ref(info.event.__name__) for info in KINDS.values()]},
    },
}
_PROBLEM = {
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


class Description:
    """What is served, described; made when it is first asked for."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = tuple(route for route in routes if route.summary)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        paths: dict[str, Any] = {}
        for route in self.routes:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
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
                "schemas": _components(self.routes),
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "description": "`mooring token` prints it."}
                },
            },
        }

    @cached_property
    def json(self) -> bytes:
        """The document as it is served."""
        return msgspec.json.encode(self.document)


DESCRIPTION: web.AppKey[Description] = web.AppKey("description", Description)


def _operation(route: Route) -> dict[str, Any]:
    parts = (part.strip("{}").capitalize() for part in route.path.split("/"))
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{''.join(parts)}",
        "responses": _responses(route),
    }
    if route.detail:
        found["description"] = route.detail
    parameters = [
        *(_parameter(one, "path") for one in route.path_parameters),
        *(_parameter(one, "query") for one in route.query or ()),
        *(_parameter(one, "header") for one in route.headers),
    ]
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = {"required": not route.body_optional, "content": _content(route.body, route.example)}
    if route.scope is None:
        found["security"] = []
    return found


def _parameter(one: Parameter, place: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "in": place, "schema": one.schema}
    if place == "path":
        found["required"] = True
    if one.text:
        found["description"] = one.text
    return found


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    sometimes = {"Idempotency-Replayed": KEY in route.headers, "Mooring-Committed": route.tells_log}
    more = tuple(name for name, may_come in sometimes.items() if may_come)
    for status, answer in route.answers.items():
        responses[str(status)] = {"description": answer.text}
        if answer.media:
            responses[str(status)]["content"] = _content(answer.media)
        _add_headers(responses[str(status)], (*answer.headers, *more))
    kinds = route.all_problems
    for status in dict.fromkeys(kind.status for kind in kinds):
        found = [kind for kind in kinds if kind.status == status]
        responses[str(status)] = {
            "description": "; ".join(f"`{kind.name}`: {kind.title}" for kind in found),
            "content": _content({PROBLEM: ref("Problem")}),
        }
        _add_headers(responses[str(status)], tuple(dict.fromkeys(name for kind in found for name in kind.headers)))
    return responses


def _add_headers(response: dict[str, Any], names: tuple[str, ...]) -> None:
    if names:
        response["headers"] = {name: {"schema": {"type": "string"}, "description": HEADERS[name]} for name in names}


def _content(media: dict[str, Shape], example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {
        kind: {"schema": ref(shape.__name__) if isinstance(shape, type) else shape} for kind, shape in media.items()
    }
    if example is not None:
        for entry in content.values():
            entry["example"] = example
    return content


def _structs(routes: tuple[Route, ...]) -> Iterator[type]:
    for route in routes:
        for media in (route.body or {}, *(answer.media for answer in route.answers.values())):
            yield from (shape for shape in media.values() if isinstance(shape, type))


def _components(routes: tuple[Route, ...]) -> dict[str, Any]:
    structs = dict.fromkeys((*_structs(routes), ErrorEntry, Invalid, *(info.event for info in KINDS.values())))
    _, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    found["Readiness"]["required"] = ["ready"]  # without a token it is all that is told
    for kind, info in KINDS.items():
        event = found[info.event.__name__]
        event["description"] = f"{kind.name}: {info.meaning}."
        event["properties"]["type"] = {"const": event["properties"]["type"]["default"]}
        event["properties"] |= {name: {"type": "string", "description": text} for name, text in info.in_json.items()}
        event["required"] = [
            field for field in event["properties"] if field not in info.in_json and field not in info.sometimes
        ]
    # As JSON has it: a default may be a tuple.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({**found, "Event": _EVENT, "Problem": _PROBLEM}))
    return plain
