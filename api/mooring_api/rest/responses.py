"""Answers as bytes: a value as JSON, a problem as RFC 9457 has it. They know no resource."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from mooring_api.rest.problems import Problem

_JSON = {"Content-Type": "application/json"}
_encode = msgspec.json.Encoder().encode


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return `value` as JSON."""
    return web.Response(body=_encode(value), status=status, headers=_JSON if headers is None else {**_JSON, **headers})


def problem_response(problem: Problem) -> web.Response:
    """Return a problem as a response."""
    return web.Response(
        status=problem.status,
        body=problem.body(),
        headers=problem.headers,
        content_type="application/problem+json",
    )
