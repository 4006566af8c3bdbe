"""Idempotency-Key: the same key and the same request, the same answer, across a crash too.

A key is claimed in the journal before anything is started. What the service died under is found claimed and
unanswered; it is then done again under the same key, and the worker (or the stored intent of a create) makes sure
that it happens once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from mooring.errors import JournalUnavailable
from mooring_api.rest.context import API
from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import problem_response

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
KEPT_HEADERS = ("Location", "Preference-Applied", "Retry-After", "Content-Type")


class StoredResponse(msgspec.Struct, frozen=True):
    """An answer, as it is stored."""

    status: int
    headers: dict[str, str]
    body: bytes


class Running(msgspec.Struct, frozen=True):
    """A create whose intent is stored: its connection's id."""

    connection: int


_in_flight: web.AppKey[set[str]] = web.AppKey("idempotency_in_flight", set)


def setup(app: web.Application) -> None:
    """Give `app` its set of keys under way."""
    app[_in_flight] = set()


def key_of(request: web.Request) -> str | None:
    """Return the request's Idempotency-Key, or None.

    Raises:
        Problem: 400 if it is not 1 to 255 visible ASCII characters, or stands twice.
    """
    values = request.headers.getall("Idempotency-Key", ())
    if not values:
        return None
    if len(values) > 1 or not _KEY.match(values[0]):
        raise Problem("bad-request", "Idempotency-Key must be 1 to 255 visible ASCII characters, once")
    return values[0]


async def once(
    request: web.Request,
    key: str,
    body: bytes,
    work: Callable[[int | None], Awaitable[web.Response]],
    *,
    anywhere: bool = False,
) -> web.Response:
    """Answer `request` by `work`, or by what is stored for `key`.

    Args:
        work: Does the request. It gets the connection's id when the service has died under a create whose intent was
            stored, else None.
        anywhere: In a cluster: nothing else says which node does it.

    Raises:
        Elsewhere: If another node of the cluster does it.
        Problem: 409 while the first request with the key runs, 422 if that was another request.
    """
    api = request.app[API]
    in_flight = request.app[_in_flight]
    journal, cluster = api.service.journal, api.service.cluster
    asked = "\n".join(
        (request.method, request.path, request.headers.get("Content-Type", ""), request.headers.get("Prefer", ""))
    )
    fingerprint = hashlib.sha256(asked.encode("utf-8", "surrogateescape") + b"\0" + body).digest()
    known = None if cluster is None else await cluster.keys.claim(key, fingerprint, anywhere=anywhere)
    if known is None:
        known = await journal.claim_key(key, fingerprint)
    connection: int | None = None
    if known is not None:
        if known.fingerprint != fingerprint:
            raise Problem("key-reused", "this Idempotency-Key was used for another request")
        if known.answer is not None:
            stored = _decode(known.answer)
            if isinstance(stored, StoredResponse):
                return web.Response(
                    status=stored.status, headers={**stored.headers, "Idempotency-Replayed": "true"}, body=stored.body
                )
            connection = stored.connection
        if key in in_flight:
            raise Problem("still-running", "the first request with this Idempotency-Key is still running")
    in_flight.add(key)
    try:
        later = False
        elsewhere: Problem | None = None
        try:
            response = await work(connection)
        except Problem as problem:
            response, later = problem_response(problem), problem.kind.later
            elsewhere = problem if problem.name == "worker-elsewhere" else None
        answer = None  # the key is given up: the request may be sent again
        if not later:
            kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
            payload = response.body if isinstance(response.body, bytes) else b""
            answer = encode_answer(StoredResponse(response.status, kept, payload))
        try:
            if cluster is None:
                await journal.answer_key(key, answer)
            else:
                await cluster.keys.answer(key, fingerprint, answer)
        except JournalUnavailable:
            pass  # what was done is done; asked again, it is as after a crash: the worker, or the intent, knows
        if elsewhere is not None:
            raise elsewhere  # it is passed on
        return response
    finally:
        in_flight.discard(key)


def encode_answer(answer: StoredResponse | Running) -> bytes:
    """Return `answer` as the journal keeps it."""
    kind = b"r" if isinstance(answer, StoredResponse) else b"c"
    return kind + msgspec.msgpack.encode(answer)


def _decode(data: bytes) -> StoredResponse | Running:
    if data[:1] == b"r":
        return msgspec.msgpack.decode(data[1:], type=StoredResponse)
    return msgspec.msgpack.decode(data[1:], type=Running)
