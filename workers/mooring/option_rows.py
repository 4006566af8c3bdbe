"""Create options as rows: what is to be known of one, and the table that the fields of a Struct make. Leaf, pure.

Which options there are is in `options`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, UnsetType

from mooring.errors import Invalid


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of one create option.

    Attributes:
        name: As a field and as an attribute of a handler.
        key: Its name in JSON.
        kind: The type of its value, with None where that is something to say.
        default: What stands for it when nobody says it, as JSON has it; `NODEFAULT`: it is required.
        doc: Its line in the documentation; `why`: the reason for the default.
        low: The bounds of a number, both included.
        zero: What 0 means, where it stands beside the bounds.
        unit: Of a number: ``"s"`` or ``"bytes"``.
        becomes: The field of `ConnectionOptions` that it fills.
        by_handler: Whether an attribute of a handler may say it.
        check: Given the value and its pointer, returns what is wrong with it.
        since: The version of the link that brought it: an older worker cannot be asked for it.
        since_values: The same, of values that came later than the option.
    """

    name: str = ""
    key: str = ""
    kind: Any = None
    default: Any = NODEFAULT
    doc: str
    why: str = ""
    low: float | None = None
    high: float = 0
    zero: str = ""
    unit: Literal["", "s", "bytes"] = ""
    becomes: str = ""
    by_handler: bool = True
    check: Callable[[Any, str], list[Invalid]] | None = None
    since: int = 1
    since_values: dict[str, int] = {}

    @property
    def bounds(self) -> str:
        """What a number may be, in words."""
        unit = {"s": " seconds", "bytes": " bytes"}.get(self.unit, "")
        return f"{f'0 ({self.zero}), or ' if self.zero else ''}{self.low:g} to {self.high:.0f}{unit}"

    def wrong(self, value: Any) -> list[Invalid]:
        """Return what is wrong with `value`: nothing, when it is right."""
        pointer = f"/{self.key}"
        if self.low is not None and not (self.zero and value == 0) and not self.low <= value <= self.high:  # or NaN
            return [Invalid(pointer, f"must be {self.bounds}")]
        return [] if self.check is None else self.check(value, pointer)


def described(doc: str, default: Any = NODEFAULT, *, examples: list[Any] | None = None, **more: Any) -> Meta:
    """Return what stands in a row: the option, and what the API's description says of it."""
    option = Option(default=default, doc=doc, **more)
    schema: dict[str, Any] = {} if default is NODEFAULT else {"default": default}
    if option.low is not None:
        schema |= {"minimum": 0 if option.zero else option.low, "maximum": option.high}
    notes = [f"0: {option.zero}"] if option.zero else []
    notes += {"s": ["seconds"], "bytes": ["bytes"]}.get(option.unit, [])
    text = doc[0].upper() + doc[1:]
    description = f"{text} ({'; '.join(notes)})." if notes else f"{text}."
    return Meta(description=description, examples=examples, extra_json_schema=schema, extra={"option": option})


def camel(name: str) -> str:
    """Return a ``snake_case`` name in ``camelCase``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _kind(declared: Any) -> Any:
    """Return the type of what may be said: `declared` without what stands for nothing being said."""
    if get_origin(declared) not in (Union, UnionType):
        return declared
    kinds = get_args(declared)
    nothing = UnsetType if UnsetType in kinds else type(None)
    return reduce(or_, [one for one in kinds if one is not nothing])


def table_of(kind: type[msgspec.Struct]) -> dict[str, Option]:
    """Return the rows that the fields of `kind` are, each by its name."""
    found = {}
    for field in msgspec.structs.fields(kind):
        declared, meta = get_args(field.type)
        option: Option = meta.extra["option"]
        found[field.name] = msgspec.structs.replace(
            option,
            name=field.name,
            key=camel(field.name),
            kind=_kind(declared),
            becomes=option.becomes or (f"{field.name}_s" if option.unit == "s" else field.name),
        )
    return found
