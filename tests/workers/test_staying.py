"""The policy of a connection that stays: what may be asked for, and what it means where nothing is said."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from mooring.kept_options import ReconnectRequest
from mooring.staying import DEFAULT, Reconnect, check_reconnect, overlay, resolve


def asked(**keys: Any) -> ReconnectRequest:
    return msgspec.convert(keys, ReconnectRequest)


def policy(**keys: Any) -> Reconnect:
    """Return the policy that a request means; it must be a valid one."""
    request = asked(**keys)
    assert not check_reconnect(request)
    made = resolve(request)
    assert made is not None
    return made


def test_true_is_every_default_and_false_is_not_kept() -> None:
    assert resolve(True) == resolve(ReconnectRequest()) == DEFAULT
    assert resolve(False) is None
    assert msgspec.structs.asdict(DEFAULT) == {
        "min_delay_s": 1.0,
        "max_delay_s": 60.0,
        "min_uptime_s": 10.0,
        "give_up_after_s": 0.0,
        "first": "fail",
        "stop_codes": (1002, 1003, 1007, 1009, 1010),
        "refused_codes": (1008, 3000, 3003, 4401, 4403),
        "retry_statuses": (404, 408, 425, 429, "5xx"),
        "persist": False,
    }


def test_a_min_delay_above_the_default_max_delay_raises_that_one() -> None:
    made = policy(minDelay=90)
    assert (made.min_delay_s, made.max_delay_s) == (90, 90)
    assert policy(stopCodes=[]).stop_codes == ()


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"minDelay": 0.04}, "/reconnect/minDelay"),
        ({"minDelay": 3601}, "/reconnect/minDelay"),
        ({"minDelay": math.nan}, "/reconnect/minDelay"),
        ({"maxDelay": 86_401}, "/reconnect/maxDelay"),
        ({"minDelay": 5, "maxDelay": 4}, "/reconnect/minDelay"),
        ({"minUptime": -1}, "/reconnect/minUptime"),
        ({"minUptime": 3601}, "/reconnect/minUptime"),
        ({"giveUpAfter": math.inf}, "/reconnect/giveUpAfter"),
        ({"stopCodes": [1000, 999]}, "/reconnect/stopCodes/1"),
        ({"refusedCodes": [5000]}, "/reconnect/refusedCodes/0"),
        ({"retryStatuses": [404, 302]}, "/reconnect/retryStatuses/1"),
        ({"retryStatuses": [101]}, "/reconnect/retryStatuses/0"),
        ({"retryStatuses": [600]}, "/reconnect/retryStatuses/0"),
    ],
)
def test_what_is_out_of_bounds_is_named_by_its_place(keys: dict[str, Any], place: str) -> None:
    assert [one.pointer for one in check_reconnect(asked(**keys))] == [place]


def test_the_bounds_themselves_are_legal() -> None:
    assert not check_reconnect(
        asked(minDelay=0.05, maxDelay=86_400, minUptime=0, giveUpAfter=31_536_000, stopCodes=[1000, 4999])
    )
    assert not check_reconnect(
        asked(minDelay=3600, maxDelay=3600, minUptime=3600, retryStatuses=[200, 401, 599, "5xx"])
    )


def test_a_body_lies_above_a_preset_key_by_key() -> None:
    fragment, body = asked(minDelay=2, stopCodes=[4400]), asked(minDelay=3, persist=True)
    assert overlay(fragment, body) == asked(minDelay=3, stopCodes=[4400], persist=True)
    assert overlay(fragment, True) is fragment
    assert overlay(fragment, False) is False
    assert overlay(True, body) is body
    assert overlay(False, True) is True
