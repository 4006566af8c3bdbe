"""Reading a request's body: whole, bounded, and in time. What it holds is for `schemas`."""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mooring.deadline import within
from mooring_api.rest.problems import Problem

BODY_TIMEOUT_S = 30.0  # a body that trickles must have come by then


def check_uncompressed(request: web.Request) -> None:
    """A body is what it is: nothing is unpacked here.

    Raises:
        Problem: 415 if it is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "bodies are taken uncompressed (no Content-Encoding)")


async def read_body(request: web.Request) -> bytes:
    """Return the whole body.

    Raises:
        Problem: 413 over the limit, 415 if it is compressed, 408 if it does not come, 400 if it is none.
    """
    check_uncompressed(request)
    if (request.content_length or 0) > request.client_max_size:
        # Said before it is read; what is longer than it says, or says nothing, meets the same limit on the way.
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    if request.content.is_eof():
        return await request.read()  # all of it is here: no deadline is needed
    try:
        async with within(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Problem("request-timeout", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    except (HttpProcessingError, web.RequestPayloadError):
        raise Problem("bad-request", "the body's chunks cannot be parsed") from None
