"""The application: the rows of every resource, and the one edge that every request passes."""

from __future__ import annotations

import logging

from aiohttp import web

from mooring.errors import MooringError
from mooring_api.rest import (
    cluster,
    clustered,
    connections,
    events,
    hooks,
    idempotency,
    kept,
    refusals,
    requesting,
    sending,
    system,
    wanted,
    workers,
)
from mooring_api.rest.context import API, Api
from mooring_api.rest.openapi import DESCRIPTION, Description
from mooring_api.rest.problems import Problem, problem_of
from mooring_api.rest.responses import problem_response
from mooring_api.rest.routes import Handler, Route
from mooring_api.rest.schemas import check_escapes, known_only, media_type

log = logging.getLogger("mooring.api")

ROUTES = (
    *connections.ROUTES,
    *kept.ROUTES,
    *sending.ROUTES,
    *requesting.ROUTES,
    *wanted.ROUTES,
    *workers.ROUTES,
    *events.ROUTES,
    *hooks.ROUTES,
    *cluster.ROUTES,
    *system.ROUTES,
)
"""Every verb that is served: the only table of them."""


def make_app(api: Api) -> web.Application:
    """Return the application of `api`."""
    refusals.install()
    app = web.Application(client_max_size=api.config.limits.max_body_bytes)
    app[API] = api
    app[DESCRIPTION] = Description(ROUTES)
    idempotency.setup(app)
    # Each handler is wrapped instead of a middleware: aiohttp's machinery for those costs every request two coroutines.
    for route in ROUTES:
        for method in route.methods:
            app.router.add_route(method, route.path, edge(route), expect_handler=refusals.expect)
    nothing_here = edge(Route("*", "", _nothing_here, "read", query=None))
    refusals.route_without_path(
        app, app.router.add_route("*", "/{path:.*}", nothing_here, expect_handler=refusals.expect)
    )
    return app


def edge(route: Route) -> Handler:
    """Return the handler of `route` behind the one edge of the API.

    What its row does not allow is refused there, and every error becomes a problem.
    """
    handler, scope, query = route.handler, route.scope, route.query
    media = None if route.body is None else frozenset(route.body)
    needs_service = route.needs_service

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            request.app[API].access.check(request, scope)
            if needs_service:
                request.app[API].service.check_started()
            if query is not None and request.query_string:
                check_escapes(request.rel_url.raw_query_string, route.opaque)
                known_only(request.query, *route.once, repeatable=route.repeatable)
            kind = request.headers.get("Content-Type")
            absent = route.body_optional and not request.body_exists
            if media is not None and not absent and media_type(kind) not in media:
                raise Problem(
                    "unsupported-media-type", f"Content-Type must say what the body is: {', '.join(route.body or ())}"
                )
            cluster = request.app[API].service.cluster
            if cluster is not None and scope is not None:
                return await clustered.answer(request, handler, cluster)
            return await handler(request)
        except Problem as problem:
            return problem_response(problem)
        except MooringError as exc:
            return problem_response(problem_of(exc))
        except web.HTTPException as exc:
            return problem_response(_http_problem(request, exc))
        except UnicodeError:
            return problem_response(Problem("bad-request", "the path or query is not UTF-8"))
        except ConnectionError:
            raise  # the client has gone away: there is nobody to answer
        # The top of a request: what mooring itself got wrong is logged, and told without its insides.
        except Exception:
            log.exception("%s %s has failed", request.method, request.path)
            return problem_response(Problem("internal", "this is a fault of mooring; its log has the traceback"))

    return guarded


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    """Answer 405 where another method is served at the path, 404 elsewhere."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical == "/{path}":
            continue
        _, methods = await resource.resolve(request)
        allowed |= methods
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _http_problem(request: web.Request, exc: web.HTTPException) -> Problem:
    match exc.status:
        case 404:
            return Problem("not-found", "there is nothing at this path; /openapi.json lists what is served")
        case 405:
            return Problem(
                "method-not-allowed",
                f"{request.method} is not allowed here",
                headers={"Allow": exc.headers.get("Allow", "")},
            )
        case 413:
            limit = request.app[API].config.limits.max_body_bytes
            return Problem("too-large", f"the body is larger than {limit} bytes (limits.max_body_bytes)")
        case 415:
            return Problem("unsupported-media-type", "the content type is not supported here")
        case status if status < 500:
            return Problem("bad-request", exc.reason)
        case _:
            return Problem("internal", exc.reason)
