"""Which keys an object in a request may have: what the nearest known one to a mistyped one is. Pure; asked only where a body was refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import inspect


def nearest(kind: Any, pointer: str, key: str) -> str | None:
    """Return the key that may have been meant by `key` of the object at `pointer` in a `kind`."""
    types = list(_plain(_type_of(kind)))
    for name in pointer.split("/")[1:]:
        types = [one for found in types for one in _inside(found, name)]
    known = [field.encode_name for found in types if isinstance(found, inspect.StructType) for field in found.fields]
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(key.lower(), by_lower, 1)
    return by_lower[found[0]] if found else None


@lru_cache(32)
def _type_of(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _plain(kind: inspect.Type) -> Iterator[inspect.Type]:
    match kind:
        case inspect.Metadata(type=inner):
            yield from _plain(inner)
        case inspect.UnionType(types=kinds):
            for one in kinds:
                yield from _plain(one)
        case _:
            yield kind


def _inside(kind: inspect.Type, name: str) -> Iterator[inspect.Type]:
    match kind:
        case inspect.StructType(fields=fields):
            for field in fields:
                if field.encode_name == name:
                    yield from _plain(field.type)
        case inspect.ListType(item_type=item):
            yield from _plain(item)
        case inspect.DictType(value_type=value):
            yield from _plain(value)
