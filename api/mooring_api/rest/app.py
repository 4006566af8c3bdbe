"""The application: the whole route table on one screen, and the one edge that every request passes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from mooring.errors import MooringError
from mooring_api.rest import connections, events, idempotency, system, workers
from mooring_api.rest.context import API, Api
from mooring_api.rest.problems import Problem, problem_of
from mooring_api.rest.responses import problem_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("mooring.api")


def routes() -> list[web.RouteDef]:
    """Return every route that is served."""
    return [
        web.post("/v1/connections", connections.create),
        web.get("/v1/connections", connections.index, allow_head=False),
        web.get("/v1/connections/{id}", connections.show, allow_head=False),
        web.delete("/v1/connections/{id}", connections.terminate),
        web.post("/v1/connections/{id}/messages", connections.send),
        web.get("/v1/connections/{id}/events", events.of_connection, allow_head=False),
        web.get("/v1/workers", workers.index, allow_head=False),
        web.get("/v1/workers/{name}", workers.show, allow_head=False),
        web.put("/v1/workers/{name}", workers.start),
        web.delete("/v1/workers/{name}", workers.kill),
        web.post("/v1/workers/{name}/calls", workers.call),
        web.post("/v1/workers/{name}/drain", workers.drain),
        web.get("/v1/workers/{name}/events", events.of_worker, allow_head=False),
        web.get("/v1/events", events.of_everything, allow_head=False),
        web.post("/v1/backup", system.backup),
        web.get("/healthz", system.healthz),
        web.get("/readyz", system.readyz),
        web.get("/metrics", system.metrics),
        web.get("/openapi.json", system.openapi),
        web.get("/docs", system.docs_page),
        web.get("/", system.page),
        web.get("/console/{name:[a-zA-Z0-9._/-]+}", system.page),
    ]


def make_app(api: Api) -> web.Application:
    """Return the application of `api`."""
    app = web.Application(client_max_size=api.config.limits.max_body_bytes)
    app[API] = api
    idempotency.setup(app)
    # Each handler is wrapped instead of a middleware: aiohttp's machinery for those costs every request two coroutines.
    app.add_routes([web.route(route.method, route.path, edge(route.handler), **route.kwargs) for route in routes()])
    app.router.add_route("*", "/{path:.*}", edge(_nothing_here))
    return app


def edge(handler: Handler) -> Handler:
    """Return `handler` behind the one edge of the API: let in or refuse, turn every error into a problem."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            request.app[API].access.check(request)
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
