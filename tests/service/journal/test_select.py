"""Which events of a batch a subscriber wants: the short ways give what looking at each event gives."""

from __future__ import annotations

import random

from mooring_service.journal.batch import BatchBuilder, EventFilter
from tests.conftest import rounds


@rounds(1_000, 20_000)
def test_a_filter_selects_what_looking_at_each_event_selects(rounds: int) -> None:
    for seed in range(rounds):
        chosen = random.Random(seed)
        builder = BatchBuilder(1 << 20)
        events: list[tuple[int, int, str]] = []  # connection, kind, worker
        few = chosen.choice((1, 2, 5))
        for _ in range(chosen.randrange(1, 4)):
            worker = chosen.choice("ab")
            run = [(chosen.randrange(few), chosen.randrange(1, 1 + few), worker) for _ in range(chosen.randrange(1, 5))]
            connections = b"".join(who.to_bytes(8, "little") for who, _, _ in run)
            builder.add(worker, connections, bytes(kind for _, kind, _ in run), b"\n".join([b"x"] * len(run)))
            events += run
        batch = builder.build(11, 0)
        wanted = EventFilter(
            connections=frozenset(chosen.sample(range(6), chosen.choice((0, 1, 3)))),
            workers=frozenset(chosen.sample("abc", chosen.choice((0, 0, 1, 2)))),
            kinds=frozenset(chosen.sample(range(1, 7), chosen.choice((0, 1, 3)))),
        )
        after = chosen.randrange(8, batch.last + 1)
        expected = [
            at
            for at, (who, kind, worker) in enumerate(events)
            if 11 + at > after
            and (not wanted.connections or who in wanted.connections)
            and (not wanted.kinds or kind in wanted.kinds)
            and (not wanted.workers or worker in wanted.workers)
        ]
        selected = wanted.select(batch, after)
        assert (list(range(len(events))) if selected is None else selected) == expected, f"seed {seed}"
