"""What is kept of all connections is what counting and sorting them would find, whatever happens to them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mooring.link.record import ConnectionUpdate, Down, KeptUpdate
from mooring_service.census import REBUILD, Census
from tests.service.fake_worker import created_of

WORKERS = ("a", "b")
STATUSES = ("Connecting", "Connected", "Reconnecting", "Closing", "Closed")
DOWN = KeptUpdate(down=Down(1, "waiting", 1, None))


def _update(connection: int, status: str, *, down: bool = False, ended: bool = False) -> ConnectionUpdate:
    return ConnectionUpdate(connection, status, 1, kept=DOWN if down else KeptUpdate(), ended=ended)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "change", "end", "move", "forget"]),
        st.integers(1, 30),
        st.sampled_from(WORKERS),
        st.sampled_from(STATUSES),
        st.booleans(),
    ),
    max_size=80,
)


@given(STEPS)
def test_it_is_what_counting_and_sorting_would_find(steps: list[tuple[str, int, str, str, bool]]) -> None:
    census = Census()
    known: dict[int, tuple[str, ConnectionUpdate]] = {}
    for what, connection, worker, status, down in steps:
        old = known.get(connection)
        if what == "add" and old is None:
            update = _update(connection, status, down=down, ended=status == "Closed" and down)
            census.add(created_of(connection, worker), update)
            known[connection] = worker, update
        elif what == "forget":
            gone = [one for one, (_, update) in known.items() if update.ended]
            census.forget(gone)
            for one in gone:
                del known[one]
        elif old is not None and not old[1].ended:
            if what == "move":
                census.moved(old[0], worker, old[1])
                known[connection] = worker, old[1]
            else:
                update = _update(connection, status, down=down, ended=what == "end")
                assert census.changed(created_of(connection, old[0]), old[1], update) is (what == "end")
                known[connection] = old[0], update
    live = {one: (worker, update) for one, (worker, update) in known.items() if not update.ended}
    assert census.next_ids(0, 100) == sorted(known)
    assert census.next_ids(7, 5) == sorted(one for one in known if one > 7)[:5]
    assert census.live_count == len(live)
    assert census.counts == Counter((worker, update.status) for worker, update in live.values())
    for worker in WORKERS:
        mine = [one for one, (its, _) in live.items() if its == worker]
        assert sorted(census.live_ids(worker)) == sorted(mine) and census.live_count_of(worker) == len(mine)
    downs = {(one, worker) for one, (worker, update) in live.items() if update.kept and update.kept.down}
    assert set(census.downs()) == downs


def test_many_that_go_at_once_leave_the_order_of_the_others() -> None:
    census = Census()
    for connection in range(1, 10 * REBUILD):
        census.add(created_of(connection, "a"), _update(connection, "Closed", ended=True))
    census.forget(list(range(1, 2 * REBUILD)))
    census.forget([5 * REBUILD])
    assert census.next_ids(0, 10**6) == [one for one in range(2 * REBUILD, 10 * REBUILD) if one != 5 * REBUILD]
