"""Objects of events are passed on as they came: also where they are JSON that other readers refuse."""

from __future__ import annotations

import json
import math

from mooring_api.client import Client
from tests.api.commands.test_cli import mooring
from tests.conftest import RunningService
from tests.servers import EchoServer

SENT = [b'{"x":1e400}', b'["\\ud800"]', b'"\\udfff \\\\udfff"', b"1" * 5_000, b"[" * 300 + b"]" * 300]


async def test_what_our_own_send_accepts_comes_back_from_an_echo(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(echo.url, dataType="object")
    for payload in SENT:
        await service.send(record["id"], payload, "application/json")
    lines = b"".join(payload + b"\n" for payload in SENT)
    assert (await service.send(record["id"], lines, "application/x-ndjson"))["sent"] == len(SENT)
    async with Client(service.url, service.token) as client:
        found = []
        async for event, raw in client.raw_events(connection=record["id"], kinds=["onMessage"]):
            found.append((event.event["data"], raw))
            if len(found) == 2 * len(SENT):
                break
        values = [{"x": math.inf}, ["\ud800"], "\udfff \\udfff", math.inf, json.loads(SENT[-1])]
        assert [data for data, _ in found] == 2 * values
        for (_, raw), payload in zip(found, 2 * SENT, strict=True):
            assert b'"data":' + payload + b"}" in raw, "byte for byte"
        page = await client.page(connection=record["id"], kinds=["onMessage"], after="start")
        assert [event.event["data"] for event in page.events] == 2 * values
    assert (await service.record(record["id"]))["status"] == "Connected"
    shown = await mooring(service, "tail", str(record["id"]), "--limit", "4")
    assert (shown.code, shown.errors) == (0, "")
    assert [line.split("onMessage ", 1)[1] for line in shown.out.splitlines()[1:]] == [
        '{"x":Infinity}',
        '["\\ud800"]',
        "\\udfff \\udfff",
    ]
