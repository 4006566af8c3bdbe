"""Every operation's answers, held against what the description says of them: status, media type, headers, schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from mooring_api.rest.app import ROUTES
from mooring_api.rest.openapi import Description
from tests.conftest import RunningService, wait_for
from tests.receiver import Receiver
from tests.servers import EchoServer

SERVICE = (("--function", "dumps=json:dumps", "--function", "loads=json:loads"), {})
DOCUMENT = Description(ROUTES).document
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
ELSEWHERE = {
    ("GET", "/readyz", 503),  # test_operations has a service that is not ready
    ("GET", "/v1/cluster", 200),  # the tests of the cluster have one
}


class Checked:
    """A client whose every answer is held against the description of the operation it asked for."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.seen: set[tuple[str, str, int]] = set()
        self.kinds: set[str] = set()

    async def ask(self, method: str, path: str, *statuses: int, query: str = "", ids: dict[str, Any] | None = None,
                  headers: dict[str, str] | None = None, read_bytes: int = -1, **kwargs: Any) -> Any:  # fmt: skip
        """Ask, and check that one of `statuses` comes as described; return what came, decoded where it is JSON."""
        operation = DOCUMENT["paths"][path][method.lower()]
        where = f"{method} {path}{query}"
        async with self.service.client.request(
            method, path.format_map(ids or {}) + query, headers=headers, **kwargs
        ) as response:
            body = await response.read() if read_bytes < 0 else await self._part(response, read_bytes)
        status = response.status
        assert status in statuses, f"{where}: {status} {body[:500]!r}"
        described = operation["responses"].get(str(status))
        assert described is not None, f"{where}: {status} is not described"
        for name in described.get("headers", {}):
            unasked = name == "Preference-Applied" and "Prefer" not in (headers or {})
            # What was not said before is not replayed; of a cluster these answers are not.
            other = name in ("Idempotency-Replayed", "Mooring-Committed")
            assert name in response.headers or unasked or other, f"{where}: {name} is missing"
        self.seen.add((method, path, status))
        media = described.get("content", {})
        if not media:
            assert body == b"", f"{where}: {body[:100]!r}"
            return None
        assert response.content_type in media, f"{where}: {response.content_type}"
        schema = media[response.content_type]["schema"]
        values = list(self._values(response.content_type, body))
        for value in values:
            if isinstance(value, dict) and "kind" in value:
                self.kinds.add(value["kind"])
            self.check(
                schema if response.content_type != EVENTS else {"$ref": "#/components/schemas/Event"}, value, where
            )
        return values[0] if len(values) == 1 else values

    @staticmethod
    async def _part(response: aiohttp.ClientResponse, size: int) -> bytes:
        body = b""
        while len(body) < size or not body.endswith(b"\n"):
            body += await response.content.readany()
        return body

    @staticmethod
    def _values(kind: str, body: bytes) -> Iterator[Any]:
        if kind in ("application/json", "application/problem+json"):
            yield json.loads(body)
        elif kind == LINES:
            yield from (json.loads(line) for line in body.splitlines())
        elif kind == EVENTS:
            yield from (json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: "))
        else:
            yield body.decode("latin-1")

    @staticmethod
    def check(schema: dict[str, Any], value: Any, where: str) -> None:
        validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
        errors = [
            f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)
        ]
        assert not errors, f"{where}: {errors}"


async def test_every_operation_answers_as_it_is_described(module_service: RunningService, echo: EchoServer) -> None:
    service = module_service.open_client()
    checked = Checked(service)
    try:
        await _ask_everything(checked, echo)
        await _ask_all_of_hooks(checked)
    finally:
        await service.client.close()
    described = {
        (route.method, route.path, status) for route in ROUTES if route.summary for status in route.answers
    } - ELSEWHERE
    assert described - checked.seen == set(), "these answers were not asked for"
    assert {
        "onOpen",
        "onDisconnect",
        "onReconnect",
        "onMessage",
        "onError",
        "onTerminate",
        "workerStarted",
        "callbackError",
        "gap",
    } <= checked.kinds


async def _ask_everything(checked: Checked, echo: EchoServer) -> None:
    ask = checked.ask
    connections, one = "/v1/connections", "/v1/connections/{id}"
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        await ask("GET", path, 200)
    await ask("GET", "/readyz", 200, headers={"Authorization": ""})

    await ask("PUT", "/v1/workers/{name}", 201, ids={"name": "w"})
    await ask("PUT", "/v1/workers/{name}", 200, ids={"name": "w"})
    await ask("PUT", "/v1/workers/{name}", 422, ids={"name": "no%20name"})
    await ask("GET", "/v1/workers", 200)
    await ask("GET", "/v1/workers/{name}", 200, ids={"name": "w"})
    await ask("GET", "/v1/workers/{name}", 404, ids={"name": "nobody"})
    call = "/v1/workers/{name}/calls"
    later = {"Prefer": "respond-async"}
    await ask("POST", call, 200, ids={"name": "w"}, json={"function": "dumps", "params": [[1]]})
    await ask("POST", call, 202, ids={"name": "w"}, json={"function": "loads", "params": ["{"]}, headers=later)
    await ask("POST", call, 422, ids={"name": "w"}, json={"function": "loads", "params": ["{"]})
    await ask("POST", call, 422, ids={"name": "w"}, json={"function": "unknown"})
    await ask("POST", call, 415, ids={"name": "w"}, data="x")
    await ask("POST", call, 400, ids={"name": "w"}, data="{", headers={"Content-Type": "application/json"})

    first = await ask("POST", connections, 201, json={"url": echo.url, "worker": "w"})
    await ask("POST", connections, 202, json={"url": echo.url, "dataType": "blob"}, headers=later)
    failed = await ask("POST", connections, 502, json={"url": "ws://127.0.0.1:1/"})
    await ask("POST", connections, 403, json={"url": "ws://169.254.169.254/"})
    await ask("POST", connections, 422, json={"url": "http://example.com/", "nonsense": 1})
    await ask("GET", connections, 200, query="?limit=1")
    await ask("GET", connections, 200, query="?status=Connected&worker=w")
    await ask("GET", connections, 400, query="?worker=%ff")
    await ask("GET", connections, 422, query="?colour=red")
    await ask("GET", one, 200, ids={"id": first["id"]})
    await ask("GET", one, 200, ids={"id": failed["connection"]})
    await ask("GET", one, 404, ids={"id": 99999})
    await ask("GET", one, 401, ids={"id": 1}, headers={"Authorization": "Bearer wrong"})
    await ask("GET", one, 403, ids={"id": 1}, headers={"Origin": "http://evil.example"})

    for kind, body in (
        ("text/plain", b"x"),
        ("application/json", b"[1]"),
        ("application/octet-stream", b"x"),
        (LINES, b"1\n"),
    ):
        await ask("POST", f"{one}/messages", 200, ids={"id": first["id"]}, data=body, headers={"Content-Type": kind})
    await ask("POST", f"{one}/messages", 415, ids={"id": first["id"]}, data=b"x", headers={"Content-Type": "text/html"})
    await ask(
        "POST", f"{one}/messages", 400, ids={"id": first["id"]}, json=None, data=b"{", headers={"Content-Type": LINES}
    )
    kept = await ask("POST", connections, 201, json={"url": echo.url, "reconnect": {"minDelay": 0.05}})
    refused = {"url": "ws://127.0.0.1:1/", "reconnect": {"first": "retry", "minDelay": 60}}
    trying = await ask("POST", connections, 202, json=refused)
    await ask("POST", connections, 422, json={"url": echo.url, "reconnect": {"minDelay": 5, "maxDelay": 1}})
    again = f"{one}/reconnect"
    await ask("POST", again, 200, ids={"id": kept["id"]}, headers={"Prefer": "wait=60"})
    await ask("POST", again, 202, ids={"id": kept["id"]}, json={"code": 3000, "reason": "x"})
    await ask("POST", again, 504, ids={"id": trying["id"]}, headers={"Prefer": "wait=0"})
    await ask("POST", again, 422, ids={"id": kept["id"]}, json={"code": 5})
    await ask("POST", again, 409, ids={"id": first["id"]})
    await ask("GET", one, 200, ids={"id": trying["id"]})
    await ask("POST", f"{one}/messages", 202, query="?whenDown=queue", ids={"id": trying["id"]}, json={"waits": 1})
    await ask("DELETE", f"{one}/queue", 200, ids={"id": trying["id"]})
    await ask("DELETE", f"{one}/queue", 409, ids={"id": first["id"]})
    # The echo of a request is its reply.
    asks = await ask("POST", connections, 201, json={"url": echo.url, "requests": "cdp"})
    requests = f"{one}/requests"
    await ask("POST", requests, 422, ids={"id": first["id"]}, json={})
    await ask("POST", requests, 504, ids={"id": asks["id"]}, query="?timeout=0.1", json={"method": "x"})
    await ask("POST", requests, 202, ids={"id": asks["id"]}, json={"method": "x"}, headers={"Prefer": "respond-async"})
    await ask("POST", requests, 200, ids={"id": asks["id"]}, json={"result": 1})
    await ask("POST", requests, 502, ids={"id": asks["id"]}, json={"error": 1})
    wanted = {"url": echo.url, "reconnect": True}
    named = await ask("PUT", one, 201, ids={"id": "named"}, json=wanted)
    await ask("PUT", one, 200, ids={"id": "named"}, json=wanted)
    await ask("PUT", one, 409, ids={"id": "named"}, json={**wanted, "dataType": "blob"})
    await ask("PUT", one, 202, ids={"id": "later"}, json=wanted, headers=later)
    await ask("PUT", one, 422, ids={"id": "7"}, json=wanted)
    await ask("PATCH", one, 200, ids={"id": "named"}, json={"reconnect": {"minDelay": 2}})
    await ask("PATCH", one, 422, ids={"id": "named"}, json={"url": 1})
    await ask("GET", "/v1/cluster", 404)
    for opened in (kept, trying, named):
        await ask("DELETE", one, 200, ids={"id": opened["id"]})
    await ask("POST", again, 410, ids={"id": kept["id"]})

    await ask("DELETE", one, 422, ids={"id": first["id"]}, query="?code=5")
    await ask("DELETE", one, 200, ids={"id": first["id"]}, query="?code=4000&reason=x")
    await ask("DELETE", one, 404, ids={"id": 99999})
    await ask(
        "POST", f"{one}/messages", 410, ids={"id": first["id"]}, data=b"x", headers={"Content-Type": "text/plain"}
    )

    await checked.service.events(first["id"], until="onTerminate")
    for path, ids, size in (
        (f"{one}/events", {"id": first["id"]}, -1),
        ("/v1/workers/{name}/events", {"name": "w"}, 500),
        ("/v1/events", {}, 500),
    ):
        for after in ("start", "00000000-1"):  # of another epoch: a gap
            page = await ask("GET", path, 200, ids=ids, query=f"?after={after}&limit=1000")
            for event in page["events"]:
                checked.kinds.add(event["kind"])
            for kind in (EVENTS, LINES):
                await ask("GET", path, 200, ids=ids, query=f"?after={after}", headers={"Accept": kind}, read_bytes=size)
        await ask("GET", path, 406, ids=ids, headers={"Accept": "image/png"})
        await ask("GET", path, 422, ids=ids, query="?limit=x")
    end = (await ask("GET", f"{one}/events", 200, ids={"id": first["id"]}, query="?limit=1000"))["next"]
    await ask("GET", f"{one}/events", 204, ids={"id": first["id"]}, query=f"?after={end}", headers={"Accept": EVENTS})

    await ask("POST", "/v1/workers/{name}/drain", 202, ids={"name": "w"})
    await ask("POST", "/v1/workers/{name}/drain", 404, ids={"name": "nobody"})
    await ask("DELETE", "/v1/workers/{name}", 200, ids={"name": "w"})
    await ask("DELETE", "/v1/workers/{name}", 404, ids={"name": "nobody"})
    await ask("POST", "/v1/backup", 200)
    await ask("POST", "/v1/backup", 422, query="?x=1")


async def _ask_all_of_hooks(checked: Checked) -> None:
    ask, one, ids = checked.ask, "/v1/hooks/{hook}", {"hook": "shop"}
    bad = {"expiresIn": -1}
    async with Receiver(lambda got: 400 if got.events else 200) as receiver:
        body = {"url": receiver.url, "after": "start", "kinds": ["onOpen"], "retry": {"delay": 60}}
        await ask("PUT", one, 201, ids=ids, json=body)
        await ask("PUT", one, 200, ids=ids, json={**body, "maxEvents": 1, "headers": {"X-Key": "1"}})
        await ask("PUT", one, 403, ids=ids, json={"url": "https://169.254.169.254/"})
        await ask("PUT", one, 422, ids={"hook": "with.dot"}, json=body)
        await ask("PUT", one, 422, ids=ids, json={**body, "after": "now"})
        await wait_for(lambda: receiver.got, what="a refused event")
        held = await wait_for(lambda: _held(ask, one, ids), what="a held event")
        await ask("GET", "/v1/hooks", 200)
        await ask("GET", f"{one}/attempts", 200, ids=ids, query="?limit=5")
        await ask("GET", f"{one}/attempts", 422, ids=ids, query="?limit=0")
        await ask("POST", f"{one}/retry", 200, ids=ids)
        await ask("POST", f"{one}/skip", 409, ids=ids, json={"through": "00000000-1"})
        await wait_for(lambda: _held(ask, one, ids), what="a held event")
        await ask("POST", f"{one}/skip", 200, ids=ids, json={"through": held[0]["id"]})
        await ask("POST", f"{one}/pause", 200, ids=ids, json={"reason": "test"})
        while (
            "POST",
            f"{one}/test",
            429,
        ) not in checked.seen:  # one in a second: a busy machine may take longer for two
            await asyncio.gather(*(ask("POST", f"{one}/test", 200, 429, ids=ids) for _ in range(2)))
        await ask("POST", f"{one}/resume", 200, ids=ids)
        await ask("POST", f"{one}/cursor", 200, ids=ids, json={"after": "now"})
        await ask("POST", f"{one}/cursor", 422, ids=ids, json={"after": "00000000-1"})
        await ask("POST", f"{one}/secrets", 201, ids=ids)
        await ask("POST", f"{one}/secrets", 201, ids=ids, json={"expiresIn": 60})
        await ask("POST", f"{one}/secrets", 409, ids=ids, json={"expiresIn": 60})
        await ask("POST", f"{one}/secrets", 422, ids=ids, json=bad)
        page = await ask(
            "GET", "/v1/events", 200, query="?after=start&kind=hookFailing,hookSkipped,hookRecovered,hookPaused"
        )
        assert {event["kind"] for event in page["events"]} >= {
            "hookFailing",
            "hookSkipped",
            "hookRecovered",
            "hookPaused",
        }
        await ask("DELETE", one, 200, ids=ids)
        await ask("GET", one, 404, ids=ids)
        await ask("DELETE", one, 404, ids=ids)


async def _held(ask: Any, one: str, ids: dict[str, Any]) -> Any:
    return (await ask("GET", one, 200, ids=ids))["held"]


def test_a_gap_is_an_event_as_described_and_one_without_its_time_is_not() -> None:
    told = {"type": "gap", "from": "e-1", "to": "e-7", "lost": None}
    gap = {"id": "e-7", "kind": "gap", "time": "2026-01-01T00:00:00.000000Z", "event": told}
    schema = {"$ref": "#/components/schemas/Event"}
    Checked.check(schema, gap, "a gap")
    del gap["time"]
    with pytest.raises(AssertionError, match="time"):
        Checked.check(schema, gap, "no time")
