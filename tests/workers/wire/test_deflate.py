"""What a server may answer to our offer of compression."""

from __future__ import annotations

import pytest

from mooring.wire.frames import Deflate
from mooring.wire.upgrade import parse_deflate


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("permessage-deflate", Deflate()),
        ("permessage-deflate; server_no_context_takeover", Deflate(server_no_context_takeover=True)),
        ("permessage-deflate; server_max_window_bits=10", Deflate(server_max_window_bits=10)),
        ('permessage-deflate; server_max_window_bits="8"', Deflate(server_max_window_bits=8)),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=10", Deflate(client_max_window_bits=10)),
        ("permessage-deflate; client_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=010", None),
        ("permessage-deflate; client_max_window_bits", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("x-webkit-deflate-frame", None),
    ],
)
def test_an_answer_to_our_offer_of_compression(answer: str, expected: Deflate | None) -> None:
    assert parse_deflate(answer) == expected
