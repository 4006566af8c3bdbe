"""When a process is asked, waited for, or ended: looks as rows, time as a number."""

from __future__ import annotations

import pytest

from mooring_service.processes.watchdog import SLOW_START, Ask, End, Wait, Watchdog

INTERVAL_S, CONNECT_S, ANSWER_S = 2.0, 10.0, 5.0

# A row is one look: when, when the process was last heard, what we know of it, what is decided.
Look = tuple[float, float, str, type]

TABLE: dict[str, list[Look]] = {
    "one that answers is asked again and again": [
        (2, 0, "linked", Ask),
        (4, 2.1, "linked", Ask),
        (6, 4.1, "linked", Ask),
        (600, 6.1, "linked", Ask),
    ],
    "one that is silent is ended once it has had its time, which begins with a question": [
        (2, 0, "linked", Ask),
        (4, 0, "linked", Ask),
        (6, 0, "linked", Ask),
        (6.9, 0, "linked", Ask),
        (7, 0, "linked", End),
    ],
    "an idle one that was not asked has not been silent": [(2, 1, "linked", Ask), (4, 2, "linked", Ask)],
    # Row 1 of the review: SIGSTOP, a paused container, swap.
    "a judge that was away asks again before it judges": [
        (2, 0, "linked", Ask),
        (14.5, 1, "linked", Ask),
        (16.5, 1, "linked", Ask),
        (18.5, 1, "linked", Ask),
        (19.5, 1, "linked", End),
    ],
    "a judge that is away again and again never judges by that time": [
        (at, 0.0, "linked", Ask) for at in range(2, 100, 5)
    ],
    "a judge that was away gives a start its time anew": [
        (2, 0, "working", Wait),
        (30, 0, "idle", Wait),
        (32, 0, "idle", Wait),
        (34, 0, "idle", Wait),
        (36, 0, "idle", Wait),
        (38, 0, "idle", Wait),
        (40, 0, "idle", End),
    ],
    # Row 2: a full or stalled disk under load.
    "while we do not read its link its deadline stands still": [(at, 0.0, "paused", Ask) for at in range(2, 100, 2)],
    "once we read again its deadline begins anew": [
        (2, 0, "linked", Ask),
        (4, 0, "paused", Ask),
        (6, 0, "paused", Ask),
        (8, 0, "linked", Ask),
        (10, 0, "linked", Ask),
        (12, 0, "linked", Ask),
        (13, 0, "linked", End),
    ],
    # Row 13: many starts at once on few cores.
    "a start that does nothing is ended when its time is over": [
        (2, 0, "idle", Wait),
        (4, 0, "idle", Wait),
        (6, 0, "idle", Wait),
        (8, 0, "idle", Wait),
        (10, 0, "idle", End),
    ],
    "a slow start is not a death": [
        *((at, 0.0, "working", Wait) for at in range(2, 60, 2)),
        (60, 0, "linked", Ask),
    ],
    "a start that works and never comes is ended all the same": [
        *((at, 0.0, "working", Wait) for at in range(2, int(CONNECT_S * SLOW_START), 2)),
        (CONNECT_S * SLOW_START, 0, "working", End),
    ],
    "a link that is lost has the time of a start to come again": [
        (2, 0, "linked", Ask),
        (4, 3, "idle", Wait),
        (6, 3, "idle", Wait),
        (8, 3, "idle", Wait),
        (10, 3, "idle", Wait),
        (12, 3, "idle", Wait),
        (14, 3, "idle", End),
    ],
    "one that dials and is not welcomed yet is there": [(at, at - 0.3, "idle", Wait) for at in range(2, 100, 2)],
}


@pytest.mark.parametrize("name", TABLE)
def test_it_decides(name: str) -> None:
    watchdog = Watchdog(0.0, interval_s=INTERVAL_S, connect_s=CONNECT_S, answer_s=ANSWER_S)
    cpu_s = 0.0
    for at, heard_at, what, decided in TABLE[name]:
        cpu_s += 0.01 * (what == "working")
        decision = watchdog.look(
            at, heard_at=heard_at, linked=what in ("linked", "paused"), reading=what != "paused", cpu_s=cpu_s
        )
        assert type(decision) is decided, f"at {at}"


@pytest.mark.parametrize("timeout_s", [0.5, 1.0, 1.9])
def test_a_time_shorter_than_the_interval_ends_nobody_who_answers(timeout_s: float) -> None:
    watchdog = Watchdog(0.0, interval_s=2.0, connect_s=1.0, answer_s=timeout_s)
    for at in range(2, 20, 2):
        assert watchdog.look(at, heard_at=at - 1.99, linked=True, reading=True, cpu_s=0.0) == Ask()


def test_the_reason_says_for_how_long() -> None:
    watchdog = Watchdog(0.0, interval_s=2.0, connect_s=1.0, answer_s=1.0)
    assert watchdog.look(2.0, heard_at=0.0, linked=False, reading=True, cpu_s=0.0) == End("it did not connect for 2 s")
