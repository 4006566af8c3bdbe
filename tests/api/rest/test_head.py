"""HEAD is answered wherever GET is, by what GET would say, without its body."""

from __future__ import annotations

import asyncio

import pytest

from mooring_api.rest.app import ROUTES
from tests.conftest import RunningService
from tests.servers import EchoServer

PATHS = [route.path for route in ROUTES if route.method == "GET"]
STREAMS = ("text/event-stream", "application/x-ndjson")


def ask(service: RunningService, method: str, path: str, *headers: str) -> bytes:
    host = service.url.removeprefix("http://")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {service.token}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_as_get_does_without_the_body(
    shared: RunningService, worker: str, echo: EchoServer, path: str
) -> None:
    record = await shared.open(echo.url, worker=worker)
    path = path.replace("{id}", str(record["id"]))
    if "{hook}" in path:
        body = {"url": "http://127.0.0.1:9/", "paused": True}
        await shared.call("PUT", f"/v1/hooks/{worker}", None, json=body)
        path = path.replace("{hook}", worker)
    path = path.replace("{name}", worker).replace("{name:[a-zA-Z0-9._/-]+}", "main.js")
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    heads = []
    for method in ("HEAD", "GET"):
        writer.write(ask(shared, method, path))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        heads.append(
            {line for line in head.decode().split("\r\n") if not line.startswith(("Date:", "Content-Length:"))}
        )
    assert heads[0] == heads[1], "and the answer of GET follows the head of HEAD at once"
    status = 404 if path == "/v1/cluster" else 200  # there is none
    assert any(line.startswith(f"HTTP/1.1 {status}") for line in heads[0])
    writer.close()


@pytest.mark.parametrize("kind", STREAMS)
async def test_head_of_a_stream_begins_none(shared: RunningService, kind: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(ask(shared, "HEAD", "/v1/events?after=start", f"Accept: {kind}") + ask(shared, "GET", "/healthz"))
    first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert first.startswith(b"HTTP/1.1 200") and f"Content-Type: {kind}".encode() in first
    second = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert second.startswith(b"HTTP/1.1 200") and b"application/json" in second
    writer.close()


async def test_head_of_what_is_not_there_is_a_404_and_another_method_a_405(shared: RunningService) -> None:
    async with shared.client.head("/v1/connections/999999") as response:
        assert (response.status, await response.read()) == (404, b"")
    async with shared.client.put("/v1/connections") as response:
        assert response.status == 405
        assert {name.strip() for name in response.headers["Allow"].split(",")} == {"GET", "HEAD", "POST"}
    async with shared.client.head("/v1/backup") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
