"""What becomes of a received message: the event, and what a callback is handed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mooring.connection.conversion import (
    InvalidData,
    convert,
    convert_all,
    fill_item,
    message_body,
    message_event,
    render,
)
from mooring.errors import LimitReached
from mooring.events import Kind, body_prefix
from mooring.options import MAX_MESSAGE_BYTES_CEILING
from mooring.testing import LocalWorker, Server
from mooring.wire.frames import BINARY, TEXT

PREFIX = body_prefix(Kind.onMessage, 1, "main")


def rendered(data_type: str, opcode: int, payload: bytes) -> bytes:
    """Return the event of one message to a connection without a handler."""
    found = render([(opcode, payload)], data_type, PREFIX, 4, 0)
    assert (found.failure, found.events, found.count, found.size) == (None, 1, 1, len(payload))
    return found.bodies.split(b'"event":', 1)[1].removesuffix(b"}")


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
    without = render(items, "object", PREFIX, 4, 0)
    with_handler = convert_all(items, "object")
    assert without.failure == with_handler.failure
    assert without.failure is not None and without.failure.startswith("a message that is not JSON: ")
    assert without.events == len(with_handler.messages) == 1
    with pytest.raises(InvalidData):
        convert("object", TEXT, payload)


AUTO = [
    (TEXT, "Grüße \n".encode(), "Grüße \n", b'{"type":"message","data":"Gr\xc3\xbc\xc3\x9fe \\n"}'),
    (TEXT, b"", "", b'{"type":"message","data":""}'),
    (TEXT, b'{"n": 1}', '{"n": 1}', b'{"type":"message","data":"{\\"n\\": 1}"}'),
    (BINARY, b"text", b"text", b'{"type":"message","data":"dGV4dA==","encoding":"base64"}'),
    (BINARY, b"\xff\x00", b"\xff\x00", b'{"type":"message","data":"/wA=","encoding":"base64"}'),
    (BINARY, b"", b"", b'{"type":"message","data":"","encoding":"base64"}'),
]


@pytest.mark.parametrize(("opcode", "payload", "data", "event"), AUTO, ids=[str(row[:2]) for row in AUTO])
def test_under_auto_each_message_is_what_it_is(opcode: int, payload: bytes, data: str | bytes, event: bytes) -> None:
    assert rendered("auto", opcode, payload) == event
    assert convert("auto", opcode, payload) == data
    assert message_event("auto", data, payload) == event


@pytest.mark.parametrize("data_type", ["text", "blob", "auto"])
def test_a_text_frame_that_is_not_utf8_fails_under_every_type(data_type: str) -> None:
    found = render([(TEXT, b"\xff")], data_type, PREFIX, 4, 0)
    assert (found.bodies, found.events, found.failure) == (b"", 0, "a message that is not UTF-8")
    assert convert_all([(TEXT, b"\xff")], data_type).failure == found.failure


@pytest.mark.parametrize("wrong", [None, 0, 1, 4])
def test_the_texts_of_one_read_are_what_each_is_by_itself_up_to_one_that_is_not_utf8(wrong: int | None) -> None:
    payloads = [b"a", b"", "Grüße \n".encode(), b'"\\', b"x" * 300]
    if wrong is not None:
        payloads[wrong] = b"a\xff"
    found = render([(TEXT, payload) for payload in payloads], "text", PREFIX, 4, 1_000_007)
    whole = payloads[:wrong] if wrong is not None else payloads
    assert found.events == len(whole) and found.bodies == b"\n".join(
        message_body(PREFIX, seq, 1_000_007, "text", payload.decode(), payload) for seq, payload in enumerate(whole, 5)
    )
    seen = payloads[: len(whole) + 1]
    assert (found.count, found.size) == (len(seen), sum(map(len, seen)))
    assert (found.failure is None) == (wrong is None)


def test_the_other_types_stay_as_they_were() -> None:
    assert rendered("text", BINARY, b"a") == rendered("text", TEXT, b"a") == b'{"type":"message","data":"a"}'
    expected = b'{"type":"message","data":"YQ==","encoding":"base64"}'
    assert rendered("blob", BINARY, b"a") == rendered("blob", TEXT, b"a") == expected
    assert rendered("object", BINARY, b"[1]") == rendered("object", TEXT, b"[1]") == b'{"type":"message","data":[1]}'


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


@pytest.mark.parametrize(
    ("data_type", "item"),
    [
        ("text", "x" * (MAX_MESSAGE_BYTES_CEILING + 1)),
        ("auto", bytes(MAX_MESSAGE_BYTES_CEILING + 1)),
        ("object", "x" * (MAX_MESSAGE_BYTES_CEILING - 1)),
    ],
    ids=["text", "bytes", "JSON"],
)
def test_nothing_larger_than_a_message_may_be_is_filled(data_type: str, item: object) -> None:
    with pytest.raises(LimitReached, match="maxMessageSize"):
        fill_item(data_type, item)
