"""From a received message to what a callback is handed, and to the event's JSON. Pure (contract, section 2)."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.events import blob_event, object_event, text_event
from mooring.frames import TEXT

_decode_json = msgspec.json.Decoder().decode


class InvalidData(Exception):
    """A message that cannot be turned into the connection's data type."""


def convert(data_type: str, opcode: int, payload: bytes) -> Any:
    """Return what a callback is handed for a received message.

    Raises:
        InvalidData: If `payload` cannot be turned into `data_type`.
    """
    try:
        if data_type == "object":
            return _decode_json(payload)
        if data_type == "text":
            return payload.decode("utf-8")
        if opcode == TEXT:
            payload.decode("utf-8")  # RFC 6455 section 8.1: a text message must be UTF-8, whoever wants it
        return payload
    except UnicodeDecodeError:
        raise InvalidData("a message that is not UTF-8") from None
    except msgspec.DecodeError as exc:
        raise InvalidData(f"a message that is not JSON: {exc}") from None
    except RecursionError:
        raise InvalidData("a message that is JSON nested too deeply") from None


def message_event(data_type: str, data: Any, payload: bytes) -> bytes:
    """Return the ``$2`` JSON of a message that `convert` has turned into `data`."""
    if data_type == "text":
        return text_event(data)
    return object_event(payload) if data_type == "object" else blob_event(payload)
