"""What aiohttp would answer by itself, before any of our handlers: here that is made a problem as everywhere.

It has no seam for most of it, so some of its own names are replaced; ``tests/test_private_aiohttp.py``
names each.
"""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import HttpVersion11, web, web_response
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import problem_response

_aiohttps = RequestHandler.handle_error


def _refuse(
    self: RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
) -> web.StreamResponse:
    """Answer what aiohttp's parser has refused as a problem; its own answer quotes what a stranger has sent."""
    _aiohttps(self, request, status, exc, message)  # logs, and raises where an answer is under way
    if isinstance(exc, LineTooLong):
        problem = Problem("headers-too-large", f"the request line or a header is longer than {exc.args[1]} bytes")
    elif message is not None and message.startswith("Too many headers"):
        problem = Problem("headers-too-large", "there are too many headers")
    elif status < 500:
        problem = Problem("bad-request", "this is not HTTP as RFC 9112 has it")
    else:
        problem = Problem("internal", "this is a fault of mooring; its log has the traceback")
    response = problem_response(problem)
    response.force_close()
    return response


def install() -> None:
    """Put them in place: for the whole process, once or more."""
    setattr(RequestHandler, "handle_error", _refuse)  # noqa: B010 - mypy takes it for a slip
    # No versions in the Server header, also of what the parser answers; a signal for it would cost every response.
    setattr(web_response, "SERVER_SOFTWARE", "mooring")  # noqa: B010 - not exported by its stubs


def route_without_path(app: web.Application, route: web.AbstractRoute) -> None:
    """Have what is no path (``OPTIONS *``, ``CONNECT host:port``) answered by `route`: resources are found by path only."""
    by_path = app.router.resolve

    async def anywhere(request: web.Request) -> web.UrlMappingMatchInfo:
        return web.UrlMappingMatchInfo({}, route)

    def resolve(request: web.Request) -> Awaitable[web.UrlMappingMatchInfo]:
        return by_path(request) if request.rel_url.raw_path.startswith("/") else anywhere(request)

    setattr(app.router, "resolve", resolve)  # noqa: B010 - mypy takes it for a slip


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answer an ``Expect`` header (RFC 9110 section 10.1.1)."""
    if request.version < HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        return problem_response(Problem("bad-request", "Expect can ask for nothing but 100-continue"))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # as aiohttp's own: it was not the answer
    return None
