"""JSON as RFC 8259 has it: more than our decoder reads. Leaf; pure.

The grammar allows numbers beyond every float and escapes of single surrogates, and others send them. Who passes a text on
only has to know that it *is* JSON (`check`); who needs a value gets what Python's own ``json`` makes of it (`decode`).
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_skim = msgspec.json.Decoder(msgspec.Raw).decode  # the grammar alone: no value is made, no UTF-8 is looked at
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """The bytes are no JSON text, or one that is nested more deeply than can be read here."""


def check(data: bytes) -> None:
    """Make sure that `data` is one JSON text in UTF-8.

    Raises:
        NotJson: If it is not; the text says what is wrong, and where.
    """
    try:
        if not data.isascii():
            data.decode("utf-8")
        try:
            _skim(data)
        except msgspec.DecodeError:
            if b"\\u" not in data:
                raise
            # It may be for a single surrogate: the same text, byte for byte, without any.
            _skim(_SURROGATE.sub(rb"\\u00", data.replace(rb"\\", b"__")))
    except UnicodeDecodeError as exc:
        raise NotJson(f"not UTF-8 (at byte {exc.start})") from None
    except msgspec.DecodeError as exc:
        raise NotJson(str(exc)) from None
    except RecursionError:
        raise NotJson("nested too deeply") from None


def decode(data: bytes) -> Any:
    """Return the value of a JSON text: a number beyond a float is ``inf``, a single surrogate stays one.

    Raises:
        NotJson: As `check`.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        check(data)
        try:
            return json.loads(data.decode("utf-8"), parse_int=_integer)
        except RecursionError:
            raise NotJson("nested too deeply") from None


def encode(value: Any) -> bytes:
    """Return `value` as JSON; NaN and infinities are ``null``, a single surrogate is escaped.

    Raises:
        TypeError: If it holds what JSON has no form for.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value, str_keys=True))
        finite = json.loads(text, parse_constant=lambda name: None, parse_int=_integer)
        return json.dumps(finite, separators=(",", ":")).encode()


def _integer(digits: str) -> int | float:
    limit = sys.get_int_max_str_digits()
    return math.copysign(math.inf, -1 if digits.startswith("-") else 1) if 0 < limit < len(digits) else int(digits)
