"""Parameters of calls and of handlers' constructors: JSON values and bytes, copied, within bounds. Pure.

What is not within them could not be read at the other end of the link: it is refused before it is on its way.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from mooring.errors import Invalid, InvalidRequest

MAX_PARAMS_BYTES = 16 * 1024 * 1024  # as the default of limits.max_body_bytes
MAX_DEPTH = 100  # as the API allows; far from the recursion limit at which each process would stop elsewhere
MAX_RESULT_BYTES = 64 * 1024 * 1024  # of a call, as JSON

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def copy_params(params: list[Any] | dict[str, Any], pointer: str = "params") -> tuple[Any, int]:
    """Return a deep copy of `params`, and its size in bytes.

    Raises:
        InvalidRequest: If it is too large, nested too deeply, or holds an integer beyond 64 bits or a lone surrogate.
        TypeError: If it holds anything but JSON values and bytes.
    """
    try:
        encoded = _encode(params)
    except OverflowError:
        raise _refused(pointer, "an integer is beyond 64 bits") from None
    except UnicodeEncodeError:
        raise _refused(pointer, "text is not valid Unicode (a lone surrogate)") from None
    except RecursionError:
        raise _refused(pointer, f"nested more than {MAX_DEPTH} deep") from None
    if len(encoded) > MAX_PARAMS_BYTES:
        raise _refused(pointer, f"{len(encoded)} bytes; at most {MAX_PARAMS_BYTES} are allowed")
    level: list[Any] = [params]
    for _ in range(MAX_DEPTH):
        inner = chain.from_iterable(chain(item, item.values()) if isinstance(item, dict) else item for item in level)
        level = [item for item in inner if isinstance(item, (dict, list, tuple))]
        if not level:
            return _decode(encoded), len(encoded)
    raise _refused(pointer, f"nested more than {MAX_DEPTH} deep")


def plain(value: Any) -> Any:
    """Return `value` with every text in it a plain ``str``: members of a ``StrEnum`` and other classes of text cannot be encoded
    for the link.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_params(params: list[Any] | dict[str, Any], pointer: str) -> list[Invalid]:
    """Return what is wrong with `params`, which came as JSON: nothing, or one entry."""
    try:
        copy_params(params, pointer)
    except InvalidRequest as exc:
        return exc.errors
    return []


def _refused(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest([Invalid(pointer, detail)])
