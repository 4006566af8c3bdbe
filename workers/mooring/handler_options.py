"""What the attributes of a handler ask for, and what a request asks for with them. Leaf, pure.

An attribute has the Python name of its create option (`options`), and so have the keys of an object in it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET

from mooring.changes import CHANGEABLE, Changes
from mooring.errors import Invalid, InvalidRequest
from mooring.option_rows import camel
from mooring.options import DEFAULT_WORKER, HANDLER_OPTIONS, OPTIONS, ConnectionRequest
from mooring.parameters import plain

_BY_KEY = {option.key: option for option in OPTIONS.values() if option.by_handler}


def changes_of(options: dict[str, Any]) -> Changes:
    """Return the changes that `options` mean, by the names and in the shapes that attributes have; None puts a default back.

    Raises:
        InvalidRequest: If one is unknown, or of a wrong type.
    """
    found = {}
    for name, value in options.items():
        if name not in CHANGEABLE or name not in OPTIONS:
            known = ", ".join(one for one in CHANGEABLE if one in OPTIONS)
            raise InvalidRequest([Invalid(f"/{name}", f"cannot be changed; what can: {known}")])
        found[camel(name)] = _builtins(name, plain(value))
    try:
        return msgspec.convert(found, Changes)
    except msgspec.ValidationError as exc:
        what, _, place = str(exc).partition(" - at `$.")
        raise InvalidRequest([Invalid(f"/{place.rstrip('`')}", what)]) from None


def _builtins(name: str, value: Any) -> Any:
    """Return the value of an attribute as JSON has it."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if name in ("reconnect", "keep_alive", "requests") and isinstance(value, dict):
        return {camel(str(key)): item for key, item in value.items()}  # what is sent, or looked for, stays as it is
    return _camel_keys(value) if name in ("tls", "proxy") else value


def from_handler(handler: object, url: str, worker: str = DEFAULT_WORKER) -> ConnectionRequest:
    """Return the request that the attributes of `handler` make. A wrong type is an `InvalidRequest`."""
    found: dict[str, Any] = {"url": url, "worker": worker}
    for name in HANDLER_OPTIONS:
        value = _builtins(name, plain(getattr(handler, name, UNSET)))
        if value is not UNSET and (value is not None or name == "proxy"):  # no proxy is something that may be said
            found[camel(name)] = value
    try:
        return msgspec.convert(found, ConnectionRequest)
    except msgspec.ValidationError as exc:
        what, _, place = str(exc).partition(" - at `$.")
        raise InvalidRequest([_of_handler(handler, place.rstrip("`"), what)]) from None


def _camel_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {camel(str(key)): _camel_keys(item) for key, item in value.items()}


def _of_handler(handler: object, place: str, detail: str) -> Invalid:
    """Return what is wrong with an attribute of `handler`; `place` names it as the create body does."""
    key = re.split(r"\W", place)[0]
    if key in _BY_KEY:
        place = place.replace(key, _BY_KEY[key].name, 1)
    return Invalid("/handler", f"{type(handler).__name__}.{place}: {detail}")


def blame_handler(error: Invalid, asked: ConnectionRequest, handler: object | None) -> Invalid:
    """Point at the handler's attribute where `asked` did not say what is wrong."""
    place = error.pointer[1:]
    option = _BY_KEY.get(place.partition("/")[0])
    if handler is None or option is None or getattr(asked, option.name) is not UNSET:
        return error
    return _of_handler(handler, place, error.detail)


def merge(request: ConnectionRequest, handler: object | None) -> ConnectionRequest:
    """Return `request` with the attributes of `handler` under it.

    What the request says wins: `data_type` replaces, `headers` are merged by (case-insensitive) name.

    Raises:
        InvalidRequest: If an attribute has a wrong type.
    """
    if handler is None:
        return request
    base = from_handler(handler, request.url, request.worker)
    merged = {
        name: value
        for name in HANDLER_OPTIONS
        if (value := getattr(request, name)) is not UNSET or (value := getattr(base, name)) is not UNSET
    }
    if request.headers is not UNSET and base.headers is not UNSET:
        own = {name.lower() for name in request.headers}
        merged["headers"] = {n: v for n, v in base.headers.items() if n.lower() not in own} | request.headers
    return msgspec.structs.replace(request, **merged)
