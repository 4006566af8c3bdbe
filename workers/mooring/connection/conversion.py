"""From a received message to what a callback is handed, and to the event's JSON. Pure (contract, section 2)."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from mooring import json_text
from mooring.errors import LimitReached
from mooring.events import blob_event, connection_body, object_event, rfc3339, text_body, text_event
from mooring.options import MAX_MESSAGE_BYTES_CEILING
from mooring.wire.frames import TEXT

_encode_json = msgspec.json.Encoder().encode


class InvalidData(Exception):
    """A message that cannot be turned into the connection's data type."""


def convert(data_type: str, opcode: int, payload: bytes) -> Any:
    """Return what a callback is handed for a received message.

    Raises:
        InvalidData: If `payload` cannot be turned into `data_type`.
    """
    try:
        if data_type == "object":
            return json_text.decode(payload)
        if data_type == "text" or (data_type == "auto" and opcode == TEXT):
            return payload.decode("utf-8")
        if opcode == TEXT:
            payload.decode("utf-8")  # RFC 6455 section 8.1: a text message must be UTF-8, whoever wants it
        return payload
    except UnicodeDecodeError:
        raise InvalidData("a message that is not UTF-8") from None
    except json_text.NotJson as exc:
        raise InvalidData(f"a message that is not JSON: {exc}") from None


def message_event(data_type: str, data: Any, payload: bytes) -> bytes:
    """Return the ``$2`` JSON of a message that `convert` has turned into `data`."""
    if data_type == "text" or (data_type == "auto" and isinstance(data, str)):
        return text_event(data)
    return object_event(payload) if data_type == "object" else blob_event(payload)


def message_body(prefix: bytes, seq: int, time_us: int, data_type: str, data: Any, payload: bytes) -> bytes:
    """Return the body of the ``onMessage`` of one message; `prefix` is `events.body_prefix` of its connection."""
    if isinstance(data, str) and data_type != "object":
        return text_body(prefix, seq, time_us, data)
    return connection_body(prefix, seq, time_us, message_event(data_type, data, payload))


def filled_body(body: bytes) -> bytes:
    """Return the body of a message that a callback has filled, of its ordinary one."""
    return body[:-2] + b',"filled":true}}'


def fill_item(data_type: str, item: Any) -> tuple[Any, bytes]:
    """Return what is filled as ``(data, payload)``, like a message that has come.

    Raises:
        TypeError: If `item` is not what `data_type` gives: text, bytes, either under ``"auto"``, any JSON value under ``"object"``.
        LimitReached: If it is larger than any message may be.
    """
    data: Any = item
    if data_type == "object":
        payload = json_text.encode(item)
    elif isinstance(item, str) and data_type in ("text", "auto"):
        payload = item.encode("utf-8")
    elif isinstance(item, bytes | bytearray | memoryview) and data_type in ("blob", "auto"):
        data = payload = bytes(item)
    else:
        raise TypeError(f"data_type {data_type!r} is not filled with {type(item).__name__}")
    if len(payload) > MAX_MESSAGE_BYTES_CEILING:  # escaped as JSON it may fit no frame of the link
        raise LimitReached("maxMessageSize", MAX_MESSAGE_BYTES_CEILING)
    return data, payload


def _event(data_type: str, opcode: int, payload: bytes) -> bytes:
    """Return the ``$2`` JSON of a message that nobody wants the value of.

    Raises:
        InvalidData: As `convert`.
    """
    if data_type != "object":
        return message_event(data_type, convert(data_type, opcode, payload), payload)
    try:
        json_text.check(payload)
    except json_text.NotJson as exc:
        raise InvalidData(f"a message that is not JSON: {exc}") from None
    return object_event(payload)


class Rendered(msgspec.Struct):
    """The events of one read, as a column of JSON (`mooring.bodies`); `failure` says what was wrong with the message after them."""

    bodies: bytes
    events: int
    count: int
    size: int
    failure: str | None = None


def render(items: list[tuple[int, bytes]], data_type: str, prefix: bytes, seq: int, time_us: int) -> Rendered:
    """Return the bodies of the ``onMessage`` events of one read; the hot path of connections without a handler.

    Args:
        prefix: `events.body_prefix` of the connection.
        seq: Of the connection's last event before these.
    """
    if data_type == "text" and items:
        rendered = _render_texts(items, prefix, seq, time_us)
        if rendered is not None:
            return rendered
    bodies: list[bytes] = []
    size = count = 0
    failure = None
    for opcode, payload in items:
        count += 1
        size += len(payload)
        try:
            bodies.append(connection_body(prefix, seq + count, time_us, _event(data_type, opcode, payload)))
        except InvalidData as exc:
            failure = str(exc)
            break
    return Rendered(b"\n".join(bodies), len(bodies), count, size, failure)


def _render_texts(items: list[tuple[int, bytes]], prefix: bytes, seq: int, time_us: int) -> Rendered | None:
    """Return the bodies of texts; None if one is no UTF-8: then the messages before that one are events."""
    try:
        texts = [payload.decode() for _, payload in items]
    except UnicodeDecodeError:
        return None
    count = len(items)
    if count == 1:
        return Rendered(text_body(prefix, seq + 1, time_us, texts[0]), 1, 1, len(items[0][1]))
    # Four pieces an event, and one join: half of what formatting each event costs.
    middle = b',"time":"%b","event":{"type":"message","data":' % rfc3339(time_us).encode()
    pieces = [b"}}\n" + prefix, b"", middle, b""] * count
    pieces[0] = prefix
    pieces[1::4] = _encode_json(list(range(seq + 1, seq + count + 1)))[1:-1].split(b",")
    pieces[3::4] = [_encode_json(text) for text in texts]
    pieces.append(b"}}")
    return Rendered(b"".join(pieces), count, count, sum([len(payload) for _, payload in items]))


class Converted(msgspec.Struct):
    """The messages of one read, as (what a callback is handed, payload)."""

    messages: list[tuple[Any, bytes]]
    count: int
    size: int
    failure: str | None = None


def convert_all(items: list[tuple[int, bytes]], data_type: str) -> Converted:
    """Return the messages of one read, for a handler's callbacks; arguments as `render`."""
    messages: list[tuple[Any, bytes]] = []
    if data_type == "text":
        with contextlib.suppress(UnicodeDecodeError):
            messages = [(payload.decode(), payload) for _, payload in items]
            return Converted(messages, len(items), sum([len(payload) for _, payload in items]))
    size = count = 0
    for opcode, payload in items:
        count += 1
        size += len(payload)
        try:
            messages.append((convert(data_type, opcode, payload), payload))
        except InvalidData as exc:
            return Converted(messages, count, size, str(exc))
    return Converted(messages, count, size)
