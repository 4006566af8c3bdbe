"""The access log: one line a request, when it has ended. It never has the query, which may hold what is not for logs."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

ACCESS = logging.getLogger("mooring.access")
"""What is written here is complete: no filter against floods stands in front of it."""


class AccessLog(AbstractAccessLogger):
    """Writes ``PEER METHOD PATH STATUS BYTES SECONDS``."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request."""
        self.logger.info(
            "%s %s %s %d %d %.3f",
            request.remote or "-",
            request.method,
            request.raw_path.partition("?")[0],
            response.status,
            response.body_length,
            time,
        )
