"""What of a connection may be changed in its life (``PATCH``): the keys, and what a create request becomes by them. Pure.

The keys are create options, and their shapes come from the rows there. A key that is given replaces that key whole, null puts its
default back, the others stay.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET

from mooring.errors import Invalid
from mooring.options import OPTIONS, ConnectionOptions, ConnectionRequest, effective

CHANGEABLE = ("url", "headers", "recipe", "reconnect", "keep_alive", "data_timeout", "when_down", "queue_ttl")
OF_ALL = frozenset({"keep_alive", "data_timeout"})
"""What may be changed of a connection that is not kept: all else means something for its next socket only."""

Request = TypeVar("Request", bound=ConnectionRequest)

if TYPE_CHECKING:

    class Changes(msgspec.Struct):
        """Made below."""

else:
    Changes = msgspec.defstruct(
        "Changes",
        [
            (field.name, field.type | None, UNSET)
            for field in msgspec.structs.fields(ConnectionRequest)
            if field.name in CHANGEABLE
        ],
        namespace={
            "__doc__": "The body of ``PATCH /v1/connections/{id}``: what is absent stays, null puts the default back."
        },
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        rename="camel",
        omit_defaults=True,
    )


def given(changes: Changes) -> dict[str, Any]:
    """Return what is to be changed, by Python names; None: back to the default."""
    values = {name: getattr(changes, name) for name in changes.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def check_changes(changes: Changes) -> list[Invalid]:
    """Return what is wrong with `changes` as such; what they lead to is checked as a create request is."""
    wrong = []
    for name, value in given(changes).items():
        if name == "url" and value is None:
            wrong.append(Invalid("/url", "has no default"))
        elif name == "reconnect" and value in (None, False):
            wrong.append(Invalid("/reconnect", "a kept connection stays one: DELETE ends it"))
    return wrong


def changed(request: Request, changes: Changes) -> Request:
    """Return the create request that `request` becomes."""
    return msgspec.structs.replace(
        request, **{name: UNSET if value is None else value for name, value in given(changes).items()}
    )


def changes_to(request: ConnectionRequest, keys: Collection[str]) -> Changes:
    """Return the changes of these keys that make of another request what `request` asks for."""
    values = {name: getattr(request, name) for name in Changes.__struct_fields__ if OPTIONS[name].key in keys}
    return Changes(**{name: None if value is UNSET else value for name, value in values.items()})


def with_clocks(options: ConnectionOptions, changes: Changes) -> ConnectionOptions:
    """Return what a connection that is not kept runs with, after changes of `OF_ALL` alone."""
    fresh = effective(changed(ConnectionRequest(url=options.url), changes))
    return msgspec.structs.replace(
        options, **{OPTIONS[name].becomes: getattr(fresh, OPTIONS[name].becomes) for name in given(changes)}
    )
