"""What is not a resource: health, readiness, metrics, the API's description, the pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mooring_api.rest import docs
from mooring_api.rest.context import API
from mooring_api.rest.openapi import DESCRIPTION
from mooring_api.rest.problems import Problem
from mooring_api.rest.responses import json_response
from mooring_api.rest.routes import BYTES, TEXT, Answer, Route, answer
from mooring_service.readiness import Readiness

BACKUP_CHUNK_BYTES = 1024 * 1024
CONSOLE = Path(__file__).parents[1] / "console"
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


async def healthz(request: web.Request) -> web.Response:
    """Alive: this process answers."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Ready to serve requests; without a token only the status is told."""
    api = request.app[API]
    readiness = api.service.readiness()
    status = 200 if readiness.ready else 503
    headers = {} if readiness.ready else {"Retry-After": "1"}
    if api.access.scopes(request) is None:
        return json_response({"ready": readiness.ready}, status, headers)
    return json_response(readiness, status, headers)


async def openapi(request: web.Request) -> web.Response:
    """``GET /openapi.json``."""
    return web.Response(body=request.app[DESCRIPTION].json, content_type="application/json")


async def page(request: web.Request) -> web.Response:
    """The console's files: no data in them."""
    name = request.match_info.get("name") or "index.html"
    path = (CONSOLE / name).resolve()
    if not path.is_relative_to(CONSOLE) or path.suffix not in _TYPES or not path.is_file():
        raise Problem("not-found", "no such page")
    return web.Response(body=path.read_bytes(), content_type=_TYPES[path.suffix], charset="utf-8", headers=PAGE_HEADERS)


async def docs_page(request: web.Request) -> web.Response:
    """``GET /docs``: the API's description, readable."""
    return web.Response(
        text=docs.page(request.app[DESCRIPTION].document), content_type="text/html", headers=PAGE_HEADERS
    )


async def metrics(request: web.Request) -> web.Response:
    """``GET /metrics``."""
    return web.Response(body=await request.app[API].metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def backup(request: web.Request) -> web.StreamResponse:
    """``POST /v1/backup``: a consistent copy of the journal, made aside and then sent."""
    api = request.app[API]
    async with api.service.backups.copy() as path:
        response = web.StreamResponse(
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        )
        await response.prepare(request)
        writing = api.stalls.watch(request.transport)
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, BACKUP_CHUNK_BYTES):
                with writing:
                    await response.write(chunk)
        await response.write_eof()
        return response


ROUTES = (
    Route(
        "POST", "/v1/backup", backup, "manage",
        summary="Copy the journal",
        detail="A consistent copy, while the service runs; `mooring restore` starts from it. It changes nothing, so an "
        "Idempotency-Key is not looked at.",
        answers={200: Answer("The copy.", {BYTES: {"type": "string", "format": "binary"}})},
        problems=("journal-unavailable",),
    ),
    Route(
        "GET", "/healthz", healthz, None, query=None,
        summary="Alive",
        answers={200: answer("This process answers.", {"type": "object"})},
    ),
    Route(
        "GET", "/readyz", readyz, None, query=None,
        summary="Ready",
        detail="Without a token only `ready` is told.",
        answers={
            200: answer("Requests can be served; `degraded` names Failed workers, `hooks` Failing hooks.", Readiness),
            503: answer("They cannot; `reasons` says why.", Readiness, "Retry-After"),
        },
    ),
    Route(
        "GET", "/metrics", metrics, "read", query=None,
        summary="Metrics for Prometheus",
        answers={200: Answer("Text exposition format.", {TEXT: {"type": "string"}})},
    ),
    Route(
        "GET", "/openapi.json", openapi, None, query=None,
        summary="This description",
        answers={200: answer("OpenAPI 3.1.", {"type": "object"})},
    ),
    Route("GET", "/docs", docs_page, None, query=None),
    Route("GET", "/", page, None, query=None),
    Route("GET", "/console/{name:[a-zA-Z0-9._/-]+}", page, None, query=None),
)  # fmt: skip
