"""The hooks resource: events posted to a URL."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from mooring.errors import Invalid
from mooring_api.rest.body import read_body
from mooring_api.rest.connections import WORKER_PROBLEMS
from mooring_api.rest.context import API
from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import JSON, Parameter, Route, answer
from mooring_api.rest.schemas import Body, convert, parse_json, query_int
from mooring_service.hook_options import HookRequest, is_hook_name, secret_faults, without_nulls
from mooring_service.hook_records import AttemptList, HookList, HookRecord, HookSecret, HookSkip, HookTested
from mooring_service.hooks.hook import ATTEMPTS_KEPT

MAX_SECRET_AGE_S = 30 * 86_400
MAX_REASON_CHARS = 200


class PauseRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Why a hook is paused. All is optional, the body too."""

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)] = ""


class CursorRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where a hook goes on: behind an event, at `start`, or `now`."""

    after: str


class SkipRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The last event that is given up: one of those that wait."""

    through: str


class SecretRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Another secret. All is optional, the body too."""

    secret: Annotated[
        str | msgspec.UnsetType, msgspec.Meta(description="whsec_ and base64 of 24 to 64 bytes; without: one is made.")
    ] = msgspec.UNSET
    expires_in: Annotated[
        float,
        msgspec.Meta(ge=0, le=MAX_SECRET_AGE_S, description="Seconds for which the old ones sign on; 0: not at all."),
    ] = 86_400.0


async def index(request: web.Request) -> web.Response:
    """``GET /v1/hooks``."""
    return json_response(HookList(request.app[API].service.hooks.records()))


async def show(request: web.Request) -> web.Response:
    """``GET /v1/hooks/{hook}``."""
    return json_response(request.app[API].service.hooks.record(_name(request)))


async def put(request: web.Request) -> web.Response:
    """``PUT /v1/hooks/{hook}``."""
    api = request.app[API]
    name = request.match_info["hook"]
    if not is_hook_name(name):
        text = "a hook's name is 1 to 63 letters, digits, '_' or '-', and begins with a letter or digit"
        raise Problem("invalid", text, errors=[Invalid("path:hook", text)])
    if api.service.cluster is not None:
        raise Problem("not-in-cluster", "a node of a cluster runs no hooks yet: have a single service for them")
    wanted = convert(without_nulls(parse_json(await read_body(request))), HookRequest)
    record = await api.finish(api.service.hooks.put(name, wanted))
    if record.secret is msgspec.UNSET:
        return json_response(record)
    return json_response(record, 201, {"Location": f"/v1/hooks/{name}"})


async def delete(request: web.Request) -> web.Response:
    """``DELETE /v1/hooks/{hook}``."""
    api = request.app[API]
    return json_response(await api.finish(api.service.hooks.delete(_name(request))))


async def pause(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/pause``."""
    api = request.app[API]
    asked = await _body(request, PauseRequest, PauseRequest())
    return json_response(await api.finish(api.service.hooks.pause(_name(request), asked.reason)))


async def resume(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/resume``."""
    api = request.app[API]
    return json_response(await api.finish(api.service.hooks.resume(_name(request))))


async def retry(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/retry``."""
    return json_response(request.app[API].service.hooks.retry(_name(request)))


async def test(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/test``: answers status and class only."""
    return json_response(await request.app[API].service.hooks.test(_name(request)))


async def move(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/cursor``."""
    api = request.app[API]
    asked = await _body(request, CursorRequest)
    return json_response(await api.finish(api.service.hooks.move(_name(request), asked.after)))


async def skip(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/skip``."""
    api = request.app[API]
    asked = await _body(request, SkipRequest)
    return json_response(HookSkip(await api.finish(api.service.hooks.skip(_name(request), asked.through))))


async def rotate(request: web.Request) -> web.Response:
    """``POST /v1/hooks/{hook}/secrets``."""
    api = request.app[API]
    asked = await _body(request, SecretRequest, SecretRequest())
    given = asked.secret if isinstance(asked.secret, str) else None
    faults = [Invalid("/secret", detail) for detail in secret_faults(given)] if given is not None else []
    if faults:
        raise Problem("invalid", f"secret: {faults[0].detail}", errors=faults)
    made = await api.finish(api.service.hooks.add_secret(_name(request), given, asked.expires_in))
    return json_response(HookSecret(made), 201)


async def attempts(request: web.Request) -> web.Response:
    """``GET /v1/hooks/{hook}/attempts``."""
    limit = query_int(request.query, "limit", ATTEMPTS_KEPT, 1, ATTEMPTS_KEPT)
    return json_response(AttemptList(request.app[API].service.hooks.attempts(_name(request), limit)))


def _name(request: web.Request) -> str:
    return request.match_info["hook"]


async def _body(request: web.Request, kind: type[Body], default: Body | None = None) -> Body:
    body = await read_body(request)
    if default is not None and not body.strip():
        return default
    return convert(without_nulls(parse_json(body)), kind)


_NOT_FOUND = "hook-not-found"
_KEYLESS = " An Idempotency-Key is not looked at."

ROUTES = (
    Route(
        "GET", "/v1/hooks", index, "read",
        summary="List hooks",
        answers={200: answer("By name.", HookList)},
    ),
    Route(
        "GET", "/v1/hooks/{hook}", show, "read",
        summary="Show a hook",
        answers={200: answer("The record, with what waits to be posted again.", HookRecord)},
        problems=(_NOT_FOUND,),
    ),
    Route(
        "PUT", "/v1/hooks/{hook}", put, "manage",
        summary="Have events posted to a URL",
        detail="One POST is in flight, in the journal's order; events come at least once. A hook that is there keeps its place and "
        "its secrets; `null` means the same as being absent (but `proxy`: none).",
        body={JSON: HookRequest},
        example={"url": "https://shop.example/mooring", "kinds": ["onMessage", "onTerminate"]},
        answers={
            200: answer("It was there; this is what it is now.", HookRecord),
            201: answer("Made; `secret` is shown this once.", HookRecord, "Location"),
        },
        problems=("address-refused", "hook-configured", "hook-conflict", "not-in-cluster", "limit-reached", *WORKER_PROBLEMS),
    ),
    Route(
        "DELETE", "/v1/hooks/{hook}", delete, "manage",
        summary="Remove a hook",
        detail="What is in flight is cut; its place is forgotten.",
        answers={200: answer("Its last record.", HookRecord)},
        problems=(_NOT_FOUND, "hook-configured", "journal-unavailable"),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/pause", pause, "manage",
        summary="Pause a hook",
        detail="It keeps its place; the journal keeps the events, as long as it keeps any." + _KEYLESS,
        body={JSON: PauseRequest},
        body_optional=True,
        example={"reason": "the shop moves"},
        answers={200: answer("It is paused.", HookRecord)},
        problems=(_NOT_FOUND,),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/resume", resume, "manage",
        summary="Have a paused hook go on",
        detail="It tries at once." + _KEYLESS,
        answers={200: answer("It goes on.", HookRecord)},
        problems=(_NOT_FOUND, "hook-conflict"),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/retry", retry, "manage",
        summary="Try a hook now",
        detail="Ends the time that it waits." + _KEYLESS,
        answers={200: answer("It tries.", HookRecord)},
        problems=(_NOT_FOUND,),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/test", test, "manage",
        summary="Post a test to a hook",
        detail="One signed POST with no events and `test` true, once a second at most; also while it is paused." + _KEYLESS,
        answers={200: answer("How it ended.", HookTested)},
        problems=(_NOT_FOUND, "hook-conflict", "limit-reached"),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/cursor", move, "manage",
        summary="Have a hook go on elsewhere",
        detail="A replay, or a jump; `generation` grows, so that no receiver takes it for what it had." + _KEYLESS,
        body={JSON: CursorRequest},
        example={"after": "start"},
        answers={200: answer("It goes on from there.", HookRecord)},
        problems=(_NOT_FOUND, "journal-unavailable"),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/skip", skip, "manage",
        summary="Give up events that a hook waits to post again",
        detail="Up to `through`, an event of the record's `held`. `hookSkipped` tells of it." + _KEYLESS,
        body={JSON: SkipRequest},
        example={"through": "ab12cd34-163"},
        answers={200: answer("How many events that is.", HookSkip)},
        problems=(_NOT_FOUND, "hook-conflict", "journal-unavailable"),
    ),
    Route(
        "POST", "/v1/hooks/{hook}/secrets", rotate, "manage",
        summary="Have a hook sign with another secret",
        detail="Both sign until the old ones expire; three are valid at most." + _KEYLESS,
        body={JSON: SecretRequest},
        body_optional=True,
        example={"expiresIn": 86400},
        answers={201: answer("The new one, shown this once.", HookSecret)},
        problems=(_NOT_FOUND, "hook-configured", "hook-conflict", "journal-unavailable"),
    ),
    Route(
        "GET", "/v1/hooks/{hook}/attempts", attempts, "read",
        summary="List the last attempts of a hook",
        detail=f"The last {ATTEMPTS_KEPT} since the start, newest first. Nothing of an answer's body is kept.",
        query=(Parameter("limit", {"type": "integer", "minimum": 1, "maximum": ATTEMPTS_KEPT}),),
        answers={200: answer("How they ended.", AttemptList)},
        problems=(_NOT_FOUND,),
    ),
)  # fmt: skip
