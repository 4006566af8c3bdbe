"""The API's description."""

from __future__ import annotations

from typing import Any

from aiohttp import web


def describe(router: web.UrlDispatcher) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {"openapi": "3.1.0", "info": {"title": "mooring", "version": "0"}, "paths": {}}
