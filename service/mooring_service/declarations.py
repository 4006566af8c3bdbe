"""``[connections.NAME]`` as create requests: the keys of the create body, read and checked, with the place of what is wrong.

A declared connection is kept by definition: it goes on trying where its server is away at the start, and persists.
"""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from msgspec import UNSET

from mooring.checks import check_connection_name
from mooring.connection.asked import Known, check_asked
from mooring.dial_options import declared_proxy
from mooring.errors import InvalidRequest, PolicyRefused
from mooring.kept_options import ReconnectRequest
from mooring.options import ConnectionRequest
from mooring_service.admission import check_way
from mooring_service.config import Config, ConfigError

_KEYS = [field.encode_name for field in msgspec.structs.fields(ConnectionRequest) if field.name != "name"]


def declared(config: Config, name: str) -> ConnectionRequest:
    """Return what ``[connections.NAME]`` asks for.

    Raises:
        ConfigError: If that is not valid, or cannot be had on this machine; it names the place.
    """
    place = f"connections.{name}"
    for fault in check_connection_name(name):
        raise ConfigError(f"{place}: {fault.detail}")
    request = _kept(_read(config.connections[name], name, place), place)
    for fault in check_asked(request, Known(config.recipes, config.functions)):
        raise ConfigError(f"{place}{fault.pointer.replace('/', '.')}: {fault.detail}")
    if request.handler is not None and request.handler.name not in config.handlers:
        raise ConfigError(f"{place}.handler.name: [handlers] has no {request.handler.name!r}")
    try:
        check_way(config, request, declared=True)
    except InvalidRequest as exc:
        raise ConfigError(f"{place}{exc.errors[0].pointer.replace('/', '.')}: {exc.errors[0].detail}") from None
    except PolicyRefused as exc:
        raise ConfigError(f"{place}: {exc}") from None
    return request


def check_declared(config: Config, name: str) -> None:
    """Check one of them, as a start does.

    Raises:
        ConfigError: As `declared`.
    """
    declared(config, name)


def all_declared(config: Config) -> dict[str, ConnectionRequest]:
    """Return what all of them ask for, by name.

    Raises:
        ConfigError: As `declared`, of the first.
    """
    return {name: declared(config, name) for name in config.connections}


def _read(table: dict[str, Any], name: str, place: str) -> ConnectionRequest:
    for key in table:
        if key == "name":
            raise ConfigError(f"{place}.name: the name is that of the table")
        if key not in _KEYS:
            nearest = difflib.get_close_matches(key, _KEYS, 1, cutoff=0.5)
            raise ConfigError(f"unknown key {place}.{key}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    values = {**table, "name": name}
    if "proxy" in table:
        values["proxy"] = declared_proxy(table["proxy"])
    try:
        return msgspec.convert(values, ConnectionRequest)
    except msgspec.ValidationError as exc:
        text, _, where = str(exc).partition(" - at `$")
        raise ConfigError(f"{place}{where.rstrip('`')}: {text}") from None


def _kept(request: ConnectionRequest, place: str) -> ConnectionRequest:
    asked = request.reconnect
    if asked is False:
        raise ConfigError(f"{place}.reconnect: a declared connection is kept: it cannot be false")
    if not isinstance(asked, ReconnectRequest):
        asked = ReconnectRequest()
    if asked.persist is False:
        raise ConfigError(f"{place}.reconnect.persist: a declared connection persists: it cannot be false")
    first = "retry" if asked.first is UNSET else asked.first
    return msgspec.structs.replace(request, reconnect=msgspec.structs.replace(asked, first=first, persist=UNSET))
