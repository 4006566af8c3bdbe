"""What becomes of a received message: the event, and what a callback is handed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mooring.connection.conversion import InvalidData, convert, convert_all, message_event, render
from mooring.events import Kind, body_prefix
from mooring.testing import LocalWorker, Server
from mooring.wire.frames import BINARY, TEXT

PREFIX = body_prefix(Kind.onMessage, 1, "main")


def rendered(data_type: str, opcode: int, payload: bytes) -> bytes:
    """Return the event of one message to a connection without a handler."""
    found = render([(opcode, payload)], data_type, PREFIX, 4, 0, lambda opcode, payload: None)
    assert (found.failure, found.count, found.size) == (None, 1, len(payload))
    return found.bodies[0].split(b'"event":', 1)[1].removesuffix(b"}")


JSON = [
    (b'{"x":1e400}', {"x": math.inf}),
    (b'"\\ud800"', "\ud800"),
    (b'{"n": 12345678901234567890.12345, "m": "\\udfff"}', {"n": 12345678901234567890.12345, "m": "\udfff"}),
    (b"1" * 5_000, math.inf),
]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(("payload", "value"), JSON, ids=[str(row[0])[:30] for row in JSON])
def test_json_that_others_accept_passes_as_it_came(payload: bytes, value: Any, opcode: int) -> None:
    expected = b'{"type":"message","data":%b}' % payload
    assert rendered("object", opcode, payload) == expected
    assert convert("object", opcode, payload) == value
    assert message_event("object", value, payload) == expected


@pytest.mark.parametrize("payload", [b"{a}", b"\xff", b'"\\ud800', b"[1,]", b"[" * 100_000])
def test_what_is_not_json_fails_with_and_without_a_handler(payload: bytes) -> None:
    items = [(TEXT, b"1"), (TEXT, payload), (TEXT, b"2")]
    without = render(items, "object", PREFIX, 4, 0, lambda opcode, payload: None)
    with_handler = convert_all(items, "object", lambda opcode, payload: None)
    assert without.failure == with_handler.failure
    assert without.failure is not None and without.failure.startswith("a message that is not JSON: ")
    assert len(without.bodies) == len(with_handler.messages) == 1
    with pytest.raises(InvalidData):
        convert("object", TEXT, payload)


class Echo:
    data_type = "object"

    def on_message(self, ws: Any, event: Any) -> None:
        ws.send([event.data])


def test_a_handler_can_send_on_what_it_was_handed() -> None:
    async def script(connection: Any) -> None:
        for payload, _ in JSON:
            await connection.send(payload.decode())
        for _ in JSON:
            await connection.receive()

    with Server(script) as server, LocalWorker() as worker:
        worker.open(server.url, Echo())
        worker.wait_for("onTerminate")
        assert [event["event"]["data"] for event in worker.events if event["kind"] == "onMessage"] == [
            value for _, value in JSON
        ]
        received = [json.loads(text)[0] for text in server.connections[0].received]
    assert received == [{"x": None}, "\ud800", {"n": 12345678901234567890.12345, "m": "\udfff"}, None]
