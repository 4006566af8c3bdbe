"""What never becomes a request: aiohttp's parser refuses it, and here the answer is made a problem as everywhere.

aiohttp has no seam for it, so two of its own names are replaced; ``tests/test_private_aiohttp.py``
names each.
"""

from __future__ import annotations

from aiohttp import web, web_response
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
