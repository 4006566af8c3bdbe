"""A mistyped key is answered with the one that was meant, wherever in the body it stands."""

from __future__ import annotations

import pytest

from mooring.options import ConnectionRequest
from mooring_api.rest.known_keys import nearest


@pytest.mark.parametrize(
    ("pointer", "key", "meant"),
    [
        ("", "headerz", "headers"),
        ("", "datatype", "dataType"),
        ("", "colour", None),
        ("/reconnect", "mindelay", "minDelay"),
        ("/tls", "cafile", "caFile"),
        ("/recipe/opening/0", "snd", "send"),
        ("/recipe/remember/token", "ponter", "pointer"),
        ("/nothing/there", "send", None),
    ],
)
def test_the_nearest_key_of_that_very_object_is_named(pointer: str, key: str, meant: str | None) -> None:
    assert nearest(ConnectionRequest, pointer, key) == meant
