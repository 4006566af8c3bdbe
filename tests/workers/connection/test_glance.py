"""What no rule means is seen by its bytes alone, and never what one means."""

from __future__ import annotations

import random

import pytest

from mooring.connection.matcher import Frame, Glance, compile_matcher

MATCHERS = [
    compile_matcher(one, "", []) for one in ("ab", {"startsWith": "ba"}, {"contains": "aab"}, {"base64": "YmI="})
]


@pytest.mark.parametrize("seed", range(20))
def test_it_sees_all_that_a_matcher_means(seed: int) -> None:
    chance = random.Random(seed)
    glance = Glance(MATCHERS)
    for _ in range(500):
        items = [(1, bytes(chance.choices(b"ab", k=chance.randrange(6)))) for _ in range(chance.randrange(1, 4))]
        meant = any(matcher.matches(Frame(payload, True)) for matcher in MATCHERS for _, payload in items)
        assert glance.sees(items) is meant
