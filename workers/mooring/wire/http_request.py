"""One HTTP request over a connection that `connect` makes: no redirect, no cookie, no second try. For the values of ``renew.http``."""

from __future__ import annotations

import asyncio
import re
import time

import msgspec

from mooring.errors import ErrCode
from mooring.version import __version__
from mooring.wire.answer import AnswerReader, InvalidAnswer, retry_after_s
from mooring.wire.exchange import Exchange
from mooring.wire.failure import DialFailed, failed
from mooring.wire.target import Target

_BREAKS = re.compile(r"[\r\n\0]")


class HttpRequest(msgspec.Struct, frozen=True):
    """A request. `body` is JSON; no text of ours may show `url`, `headers` or `body`."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes | None


class HttpAnswer(msgspec.Struct, frozen=True):
    """Its answer, whole."""

    status: int
    body: bytes
    retry_after_s: float | None


def request_bytes(request: HttpRequest, target: Target) -> bytes:
    """Return what goes on the wire.

    Raises:
        ValueError: If a header would break out of its line.
    """
    given = {name.lower() for name, _ in request.headers}
    headers = [("Host", target.host_header), ("Connection", "close"), *request.headers]
    if "user-agent" not in given:
        headers.append(("User-Agent", f"mooring/{__version__}"))
    if "accept" not in given:
        headers.append(("Accept", "application/json"))
    if request.body is not None and "content-type" not in given:
        headers.append(("Content-Type", "application/json"))
    if request.body is not None or request.method != "GET":
        headers.append(("Content-Length", str(len(request.body or b""))))
    lines = [f"{request.method} {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any(_BREAKS.search(line) for line in lines):
        raise ValueError("a line break in a header")
    return "\r\n".join([*lines, "", ""]).encode() + (request.body or b"")


async def converse(exchange: Exchange, request: HttpRequest, target: Target, place: str, max_bytes: int) -> HttpAnswer:
    """Return the answer of the server at the other end of `exchange`.

    Raises:
        DialFailed: If it is no HTTP, longer than `max_bytes`, or ends too early.
    """

    def broken(what: str) -> DialFailed:
        return failed(ErrCode.RENEW_FAILED, f"{place}: {what}")

    exchange.transport.write(request_bytes(request, target))
    answer = AnswerReader(asyncio.get_running_loop(), max_body_bytes=max_bytes + 1)
    try:
        while True:
            data = await exchange.receive()
            if not data:
                raise broken("it closed the connection before it had answered")
            if answer.feed_head(data):
                break
        answer.feed_body(answer.rest + exchange.take_rest())
        while answer.wants_body:
            data = await exchange.receive()
            if not data:
                answer.feed_end()
                break
            answer.feed_body(data)
    except InvalidAnswer as exc:
        raise broken(f"no valid HTTP: {exc}") from None
    except OSError:
        raise broken("the connection was cut before the answer was complete") from None
    body = answer.body()
    if len(body) > max_bytes:
        raise broken(f"the answer is longer than {max_bytes} bytes")
    if not answer.is_whole:
        raise broken("the answer was cut off")
    return HttpAnswer(answer.status, body, retry_after_s(answer.headers, time.time()))
