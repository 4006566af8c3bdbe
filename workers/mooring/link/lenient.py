"""A Struct as the link reads it: what it does not know is skipped, also inside of it. Pure.

A body of the API refuses unknown keys, so that a typing error is not taken for silence. The two ends of the link may be
of different programs: there an unknown key is something newer, and an error would break the link.
"""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT


@cache
def lenient(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a sub-class of `kind` that skips unknown fields, and whose fields do so, too."""
    changed: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(kind):
        inner = _lenient(field.type)
        if inner is not field.type:
            default = field.default
            if field.default_factory is not NODEFAULT:
                default = msgspec.field(default_factory=field.default_factory)
            changed.append((field.name, inner, default) if default is not NODEFAULT else (field.name, inner))  # type: ignore[arg-type]  # its default is what makes it a triple
    return msgspec.defstruct(
        f"Link{kind.__name__}",
        changed,
        bases=(kind,),
        module=kind.__module__,
        forbid_unknown_fields=False,
        frozen=True,
        kw_only=True,
    )


def _lenient(kind: Any) -> Any:
    """Return a type with every Struct in it lenient; `kind` itself where there is none."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return lenient(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None:
        return kind
    if origin is Annotated:
        inner = _lenient(arguments[0])
        return kind if inner is arguments[0] else Annotated[inner, *arguments[1:]]
    found = tuple(map(_lenient, arguments))
    if all(new is old for new, old in zip(found, arguments, strict=True)):
        return kind
    return reduce(or_, found) if origin in (Union, UnionType) else origin[found]
