"""Staying connected, as it is asked for and as it is obeyed: the checked policy of one connection. Leaf, pure.

Each floor must know it: the API checks it and shows it, the service keeps it, the worker obeys it. What follows from it is
decided in `connection/keep`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET

from mooring.errors import Invalid
from mooring.kept_options import ReconnectRequest


class Reconnect(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "min_delay_s": "minDelay",
        "max_delay_s": "maxDelay",
        "min_uptime_s": "minUptime",
        "give_up_after_s": "giveUpAfter",
        "stop_codes": "stopCodes",
        "refused_codes": "refusedCodes",
        "retry_statuses": "retryStatuses",
    },
):
    """The effective ``reconnect``. What each default is for stands beside it; stored and told are only the others."""

    min_delay_s: float = 1.0  # alone, a lost connection is back in half a second; the limiter is for the storm
    max_delay_s: float = 60.0  # a server that returns has everybody back within a minute
    min_uptime_s: float = 10.0  # who accepts and then closes is not back: resetting at the open has caused storms
    give_up_after_s: float = 0.0  # never. Time and not tries: under jitter a count says nothing
    first: Literal["fail", "retry"] = "fail"  # a wrong URL is told to who typed it
    stop_codes: tuple[int, ...] = (1002, 1003, 1007, 1009, 1010)  # it would recur with the same bytes
    refused_codes: tuple[int, ...] = (
        1008,
        3000,
        3003,
        4401,
        4403,
    )  # policy, IANA's unauthorized and forbidden, graphql-ws
    retry_statuses: tuple[int | str, ...] = (
        404,
        408,
        425,
        429,
        "5xx",
    )  # 404: rolling deployments answer it for seconds
    persist: bool = False


DEFAULT: Final = Reconnect()


def check_reconnect(request: ReconnectRequest, pointer: str = "/reconnect") -> list[Invalid]:
    """Return what is wrong with the values of `request`."""
    wrong: list[Invalid] = []
    for name, key, least, most in (
        ("min_delay", "minDelay", 0.05, 3_600.0),
        ("max_delay", "maxDelay", 0.05, 86_400.0),
        ("min_uptime", "minUptime", 0.0, 3_600.0),
        ("give_up_after", "giveUpAfter", 0.0, 31_536_000.0),
    ):
        value = getattr(request, name)
        if value is not UNSET and not least <= value <= most:  # also refuses NaN
            wrong.append(Invalid(f"{pointer}/{key}", f"must be {least:g} to {most:.0f} seconds"))
    lowest, highest = request.min_delay, request.max_delay
    if not wrong and isinstance(lowest, (int, float)) and isinstance(highest, (int, float)) and lowest > highest:
        wrong.append(Invalid(f"{pointer}/minDelay", "is above maxDelay"))
    for key, codes in (("stopCodes", request.stop_codes), ("refusedCodes", request.refused_codes)):
        for index, code in enumerate([] if codes is UNSET else codes):
            if not 1000 <= code <= 4999:
                wrong.append(Invalid(f"{pointer}/{key}/{index}", "must be a close code, 1000 to 4999"))
    for index, status in enumerate([] if request.retry_statuses is UNSET else request.retry_statuses):
        if isinstance(status, int) and not (200 <= status <= 299 or 400 <= status <= 599):
            detail = 'must be a status of 200 to 299 or 400 to 599, or "5xx"; redirects are not followed'
            wrong.append(Invalid(f"{pointer}/retryStatuses/{index}", detail))
    return wrong


def check_option(reconnect: bool | ReconnectRequest, pointer: str) -> list[Invalid]:
    """Return what is wrong with the create option."""
    if isinstance(reconnect, bool):
        return []
    return check_reconnect(reconnect, pointer)


def overlay(under: bool | ReconnectRequest, over: bool | ReconnectRequest) -> bool | ReconnectRequest:
    """Return `over` with what it leaves open taken from `under`, key by key: a create body above a preset."""
    if not over or not isinstance(under, ReconnectRequest):
        return over
    if over is True:
        return under
    given = {name: value for name in over.__struct_fields__ if (value := getattr(over, name)) is not UNSET}
    return msgspec.structs.replace(under, **given)


_MAX_SHARED = 256
_shared: dict[Reconnect, Reconnect] = {}


def shared(policy: Reconnect) -> Reconnect:
    """Return the one object that stands for all policies equal to `policy`: ten thousand connections are mostly kept alike."""
    if len(_shared) >= _MAX_SHARED:
        _shared.clear()
    return _shared.setdefault(policy, policy)


def resolve(request: bool | ReconnectRequest) -> Reconnect | None:
    """Return the policy that a checked `request` means; None: not kept."""
    if isinstance(request, bool):
        return DEFAULT if request else None
    given = {}
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if value is not UNSET:
            field = f"{name}_s" if f"{name}_s" in Reconnect.__struct_fields__ else name
            given[field] = tuple(value) if isinstance(value, list) else value
    policy = msgspec.structs.replace(DEFAULT, **given)
    if policy.max_delay_s < policy.min_delay_s:  # only minDelay was given, above the default maxDelay
        policy = msgspec.structs.replace(policy, max_delay_s=policy.min_delay_s)
    return shared(policy)
