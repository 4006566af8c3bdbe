"""Bodies that are on their way between nodes in pieces: bounded in number, bytes and time."""

from __future__ import annotations

import pytest

from mooring_service.cluster import forward
from mooring_service.cluster.forward import Pieces
from tests.conftest import wait_for


async def test_pieces_of_bodies_are_bounded_in_number_and_in_bytes_and_the_oldest_give_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "MAX_TRANSFER_BYTES", 1_000)
    kept = Pieces()
    for number in range(3 * forward.MAX_TRANSFERS):
        kept.add(f"small {number}", [b"x"])
    assert [kept.of(f"small {number}") for number in (0, 2 * forward.MAX_TRANSFERS - 1)] == [[], []]
    assert kept.of(f"small {2 * forward.MAX_TRANSFERS}") == [b"x"]
    for index in range(20):  # one alone may be larger: what one request may bear is bounded elsewhere
        kept.add("large", [bytes(100)])
        assert len(kept.of("large")) == index + 1
    assert kept.of(f"small {3 * forward.MAX_TRANSFERS - 1}") == []
    kept.add("next", [b"y", b"z"])
    assert (kept.of("large"), kept.of("next")) == ([], [b"y", b"z"])
    kept.drop("next")
    kept.drop("next")
    kept.add("full", [bytes(1_000)])
    kept.add("over", [])
    assert kept.of("full") == [bytes(1_000)], "what was dropped is not counted any more"


async def test_pieces_that_nobody_asks_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "TRANSFER_S", 0.05)
    kept = Pieces()
    kept.add("one", [b"x"])
    assert kept.of("one") == [b"x"]
    await wait_for(lambda: not kept.of("one"))
