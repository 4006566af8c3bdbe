"""Clients that close their sending side once they have asked (``nc -N``)."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.conftest import RunningService
from tests.servers import EchoServer

SERVICE = ((), {"MOORING_API_REQUEST_TIMEOUT": "600"})  # so that it is not this that ends what was only begun


def ask(service: RunningService, method: str, path: str, body: bytes | None = None, *headers: str) -> bytes:
    length = [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    host = service.url.removeprefix("http://")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {service.token}", *length, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def half_closed(service: RunningService, request: bytes, wait_s: float = 60) -> bytes:
    """Send, close the sending side at once, and return everything that comes until the service closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(request)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), wait_s)
    finally:
        writer.close()


async def test_a_request_whose_client_closes_its_sending_side_is_answered(
    shared: RunningService, worker: str, echo: EchoServer
) -> None:
    for path in ("/v1/workers", "/v1/events?after=start&limit=1000"):
        answer = await half_closed(shared, ask(shared, "GET", path))
        assert answer.startswith(b"HTTP/1.1 200"), path
    body = json.dumps({"url": f"{echo.url}slow?s=0.5", "worker": worker}).encode()
    answer = await half_closed(shared, ask(shared, "POST", "/v1/connections", body))
    assert answer.startswith(b"HTTP/1.1 201"), "what takes time is answered as well"
    record = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert record["status"] == "Connected"
    path = f"/v1/connections/{record['id']}/messages"
    lines = ask(shared, "POST", path, b'{"a": 1}\n' * 1_000).replace(b"application/json", b"application/x-ndjson")
    answer = await half_closed(shared, lines)
    assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_requests_in_one_packet_are_all_answered_in_their_order(shared: RunningService) -> None:
    paths = ["/healthz", "/v1/workers", "/v1/connections/999999", "/v1/connections"]
    answer = await half_closed(shared, b"".join(ask(shared, "GET", path) for path in paths))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200", b"404", b"200"]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda service: b"",
        lambda service: b"GET /v1/workers HTTP/1.1\r\nHost:",
        lambda service: ask(service, "POST", "/v1/connections", b'{"url": "ws://127.0.0.1:9/"}')[:-5],
        lambda service: ask(service, "GET", "/v1/events?after=now&wait=60"),
        lambda service: ask(service, "GET", "/v1/events", None, "Accept: text/event-stream"),
    ],
    ids=["nothing", "half a head", "half a body", "a page that waits", "a stream"],
)
async def test_what_will_never_be_whole_and_what_never_ends_is_closed_at_once(
    shared: RunningService, request_of: object
) -> None:
    assert callable(request_of)
    answer = await half_closed(shared, request_of(shared), 50)
    assert b"HTTP/1.1 2" not in answer or b"text/event-stream" in answer
