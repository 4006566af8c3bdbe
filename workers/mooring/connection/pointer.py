"""JSON values by JSON pointers (RFC 6901): read once, then followed into any JSON value, and back to put one in. Pure, total."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

import msgspec

MAX_POINTER_CHARS = 1_000  # far above any real one; what is followed on each message has a bound

_BAD_ESCAPE = re.compile(r"~(?![01])")
_SCALARS = (str, int, float, bool)
_ARRAY_INDEX = re.compile(r"(0|[1-9][0-9]{0,9})\Z", re.ASCII)  # section 4; no array of ours has 10^10 elements


class Missing(Enum):
    """Its one member says that there is no value: ``null`` is one."""

    MISSING = "no such value"


MISSING: Final = Missing.MISSING


def is_scalar(value: Any) -> bool:
    """Say whether `value` is a JSON value that is neither object nor array."""
    return value is None or type(value) in _SCALARS


def scalar_key(value: Any) -> tuple[bool, Any]:
    """Return what makes two scalars equal as JSON values: 1 is 1.0, and ``true`` is not 1 as it would be in Python."""
    return type(value) is bool, value


class Pointer(msgspec.Struct, frozen=True):
    """A pointer that was read: of each token its text, and the array index that it is, or -1."""

    text: str
    tokens: tuple[tuple[str, int], ...]

    def get(self, value: Any) -> Any:
        """Return what stands there in `value`, or `MISSING`. ``-``, the element after the last, is nowhere."""
        for name, index in self.tokens:
            if type(value) is dict:
                if name not in value:
                    return MISSING
                value = value[name]
            elif type(value) is list and 0 <= index < len(value):
                value = value[index]
            else:
                return MISSING
        return value


def parse_pointer(text: str) -> Pointer | None:
    """Return the pointer that `text` is, or None where it is none by RFC 6901 section 3."""
    if not text:
        return Pointer("", ())  # the whole value
    if not text.startswith("/") or len(text) > MAX_POINTER_CHARS or _BAD_ESCAPE.search(text):
        return None
    # ~1 before ~0, or "~01" would become "/" instead of "~1" (section 4).
    names = [token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/")]
    return Pointer(text, tuple((name, int(name) if _ARRAY_INDEX.match(name) else -1) for name in names))


def put(pointer: Pointer, body: bytes, value: Any) -> bytes | None:
    """Return the JSON text `body` with `value` at `pointer`; all other members stay byte for byte as they came.

    A member that is not there is added to its object; an array must have the element already. None: there is no such
    place, or `body` is not JSON.
    """
    return _put(pointer.tokens, body, msgspec.json.encode(value))


def _put(tokens: tuple[tuple[str, int], ...], body: bytes, value: bytes) -> bytes | None:
    if not tokens:
        return value
    (name, index), rest = tokens[0], tokens[1:]
    try:
        level = msgspec.json.decode(body, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(level, dict):
        inner = level.get(name)
        if inner is None and rest:
            return None
        changed = _put(rest, bytes(inner or b""), value)
        if changed is not None:
            level[name] = msgspec.Raw(changed)
    else:
        if not 0 <= index < len(level):
            return None
        changed = _put(rest, bytes(level[index]), value)
        if changed is not None:
            level[index] = msgspec.Raw(changed)
    return None if changed is None else msgspec.json.encode(level)
