"""A receiver of hooks with a ledger: it verifies by the published library, answers as it is told, and keeps what it has taken."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.conftest import RunningService, wait_for


class Got:
    """One POST as it came."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.path_qs = request.path_qs
        self.headers = request.headers
        self.body = body
        self.at = asyncio.get_running_loop().time()
        self.status = 0

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def page(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        if self.headers["content-type"] == "application/x-ndjson":
            return [json.loads(line) for line in self.body.splitlines()]
        page = self.page
        return page.get("events", [page])

    def verify(self, secret: str) -> Any:
        """Check the signature as a receiver does; return the JSON."""
        return Webhook(secret).verify(self.body, dict(self.headers))


Answer = Callable[[Got], Any]
"""Returns a status, a response, or an awaitable of one of them."""


class Receiver:
    """Listens on loopback. `answer` decides; what is answered with 2xx is in `taken`; `connections` counts sockets."""

    def __init__(
        self, answer: Answer | None = None, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer: Answer = answer or (lambda got: 200)
        self.host = host
        self.port = port
        self.tls = tls
        self.got: list[Got] = []
        self.taken: list[dict[str, Any]] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        self.port = sock.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, sock=sock, backlog=1024, ssl=self.tls)
        return self

    def _accept(self) -> asyncio.Protocol:
        self.connections += 1
        return self._runner.server()

    async def __aexit__(self, *exc: object) -> None:
        self._listener.close()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        got = Got(request, await request.read())
        self.got.append(got)
        answer = self.answer(got)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if not isinstance(answer, web.StreamResponse):
            answer = web.Response(status=answer)
        got.status = answer.status
        if 200 <= answer.status < 300:
            self.taken += got.events
        return answer

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.taken]

    async def until(self, count: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until so many events were taken."""
        await wait_for(lambda: len(self.taken) >= count, timeout_s, f"{count} events, not {len(self.taken)}")
        return self.taken


async def hook(service: RunningService, name: str, url: str, status: int = 201, **options: Any) -> dict[str, Any]:
    """Make a hook, or replace it."""
    return await service.call("PUT", f"/v1/hooks/{name}", status, json={"url": url, **options})


async def all_events(service: RunningService, query: str = "") -> list[dict[str, Any]]:
    """Return everything that the journal keeps, in order."""
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        page = await service.get(f"/v1/events?after={after}&limit=1000{query}")
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next"]


async def told_of(service: RunningService, name: str, count: int, *kinds: str) -> list[dict[str, Any]]:
    """Wait until at least so many events of these `kinds` speak of that hook; return them."""

    async def look() -> list[dict[str, Any]] | None:
        told = [one for one in await all_events(service, f"&kind={','.join(kinds)}") if one["event"]["hook"] == name]
        return told if len(told) >= count else None

    return await wait_for(look, what=f"{count} of {kinds} about {name}")
