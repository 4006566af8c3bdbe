"""One row per verb of the API: what it is asked with, what it answers, who may ask; and the handler that does it.

What is served, what is described and what is refused before a handler runs come from these rows. Each resource's file
holds its own, beside its handlers; `app` puts them together. Pure: it knows no resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from aiohttp import web
from msgspec import Struct

from mooring.checks import CONNECTION_NAME_PATTERN, NAME_PATTERN
from mooring_api.rest.problems import TYPES, ProblemType
from mooring_service.config import Scope
from mooring_service.hook_options import HOOK_NAME_PATTERN

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
BYTES = "application/octet-stream"
TEXT = "text/plain"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Shape = type | dict[str, Any]
"""A Struct that is encoded or decoded, or a JSON Schema where none is."""


class Parameter(Struct, frozen=True):
    """What a request may say beside its body.

    A query says it once, unless it is `repeatable`. One that is `opaque` has a meaning whatever it holds.
    """

    name: str
    schema: dict[str, Any]
    text: str = ""
    repeatable: bool = False
    opaque: bool = False


class Answer(Struct, frozen=True):
    """One way in which a request succeeds; `media` is by media type."""

    text: str
    media: dict[str, Shape] = {}
    headers: tuple[str, ...] = ()


def answer(text: str, shape: Shape, *headers: str) -> Answer:
    """Return an answer in JSON."""
    return Answer(text, {JSON: shape}, headers)


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema that `openapi` has by name."""
    return {"$ref": f"#/components/schemas/{name}"}


PATH_PARAMETERS = {
    "id": Parameter(
        "id",
        {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{CONNECTION_NAME_PATTERN}$"}]},
        "The connection's id, or its name: of the one that has it, else of the last that had it and is retained.",
    ),
    "hook": Parameter("hook", {"type": "string", "pattern": f"^{HOOK_NAME_PATTERN}$"}),
    "name": Parameter("name", {"type": "string", "pattern": f"^{NAME_PATTERN}$"}),
}
PREFER = Parameter("Prefer", {"type": "string"}, "`respond-async`: answer 202 at once.")
KEY = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255},
    "The same key and the same request within a day get the same answer, across a crash too.",
)

_ALWAYS = ("bad-request", "forbidden")
_WITH_BODY = ("invalid", "too-large", "unsupported-media-type", "request-timeout")
_WITH_KEY = ("still-running", "key-reused")


class Route(Struct, frozen=True, dict=True):
    """One row.

    `scope` None needs no token. `query` None: what it says is not looked at, else anything but what stands there is
    refused. `summary` may be empty for pages, which are no part of the API's description. `problems` are those of its own;
    what its body, query, key and token may meet with is known.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str = ""
    detail: str = ""
    query: tuple[Parameter, ...] | None = ()
    headers: tuple[Parameter, ...] = ()
    body: dict[str, Shape] | None = None  # by media type
    body_optional: bool = False
    example: Any = None
    answers: dict[int, Answer] = {}
    problems: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """What is routed to it: HEAD is answered wherever GET is."""
        return ("HEAD", "GET") if self.method == "GET" else (self.method,)

    @cached_property
    def once(self) -> tuple[str, ...]:
        """The names that a query may hold, each once."""
        return tuple(one.name for one in self.query or () if not one.repeatable)

    @cached_property
    def repeatable(self) -> tuple[str, ...]:
        """The names that a query may hold more than once."""
        return tuple(one.name for one in self.query or () if one.repeatable)

    @cached_property
    def opaque(self) -> tuple[str, ...]:
        """The names of a query whose values have a meaning whatever they hold."""
        return tuple(one.name for one in self.query or () if one.opaque)

    @property
    def needs_service(self) -> bool:
        """It asks for what the journal tells at a start."""
        return self.path.startswith("/v1/")

    @property
    def tells_log(self) -> bool:
        """Say whether what it does is told by the log of a cluster; of hooks nothing is, and a copy of the journal is nothing new."""
        return self.method != "GET" and self.path.startswith(("/v1/connections", "/v1/workers"))

    @property
    def path_parameters(self) -> list[Parameter]:
        """What stands in braces in the path."""
        return [PATH_PARAMETERS[part[1:-1]] for part in self.path.split("/") if part.startswith("{")]

    @property
    def all_problems(self) -> list[ProblemType]:
        """Every problem that it answers, by status; but faults of mooring's own, and of HTTP below it."""
        names = {*_ALWAYS, *self.problems}
        if self.scope is not None:
            names.add("unauthorized")
        if self.needs_service:
            names.add("unavailable")
            if "{" in self.path:
                names.add("engine-down")  # of a cluster: whether it is elsewhere cannot be said
            if "{id}" in self.path and self.method != "GET":
                names |= {"node-unreachable", "node-silent"}
            if "{name}" in self.path and self.method != "GET":
                names |= {"node-unreachable", "node-silent", "worker-elsewhere"}
            if (self.method, self.path) in (("POST", "/v1/connections"), ("PUT", "/v1/connections/{id}")):
                names |= {"engine-down", "node-unreachable", "node-silent", "worker-elsewhere"}
        if self.query is not None:
            names.add("invalid")
        if self.body is not None:
            names.update(_WITH_BODY)
        if KEY in self.headers:
            names.update(_WITH_KEY)
        return [kind for name, kind in TYPES.items() if name in names]
