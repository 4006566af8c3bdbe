"""The limiter of redials: who may go, and when to look again."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import Counter
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.bounds import MAX_LIMIT, HostLimit, RedialLimits
from mooring.connection.keep import Ended, Keeper, Redial
from mooring.errors import ErrCode
from mooring.process.redial import Redials, place_of
from mooring.staying import DEFAULT

HOST = "h.test:443"


def served(redials: Redials, until: float, *, fly_s: float = 0.0) -> list[tuple[float, Hashable]]:
    """Run the clock to `until`; a handshake takes `fly_s`. Return (when, who)."""
    found: list[tuple[float, Hashable]] = []
    flying: list[tuple[float, int, Hashable]] = []
    now = 0.0
    while True:
        for ticket in redials.go(now):
            found.append((now, ticket))
            heapq.heappush(flying, (now + fly_s, len(found), ticket))
        now = max(now, min(redials.look_again_at, flying[0][0] if flying else math.inf))
        if now > until:
            return found
        while flying and flying[0][0] <= now:
            redials.done(heapq.heappop(flying)[2])


def test_a_burst_goes_at_once_and_the_rest_at_the_rate_in_turn() -> None:
    redials = Redials(RedialLimits(rate=50, burst=10))
    for ticket in range(100):
        redials.take(ticket, HOST, 0)
    found = served(redials, 10)
    assert [ticket for _, ticket in found] == list(range(100))
    assert [when for when, _ in found[:10]] == [0] * 10
    for index, (when, _) in enumerate(found[10:], 1):
        assert when == pytest.approx(index / 50)
    assert redials.waiting == 0
    assert redials.look_again_at == math.inf, "nobody polls"


def test_a_quiet_time_earns_no_more_than_the_burst() -> None:
    redials = Redials(RedialLimits(rate=50, burst=10))
    redials.take(-1, HOST, 0)
    assert redials.go(0) == [-1]
    redials.done(-1)
    for ticket in range(20):
        redials.take(ticket, HOST, 1000)
    assert len(redials.go(1000)) == 10


def test_waking_at_the_said_time_is_never_too_early() -> None:
    for rate in (0.9, 3, 7, 49.99, 50, 333):
        redials = Redials(RedialLimits(rate=rate, burst=1))
        for ticket in range(200):
            redials.take(ticket, HOST, 12345.678)
        now = 12345.678
        for ticket in range(200):
            assert redials.go(now) == [ticket], f"rate {rate}: woken, and nobody may go"
            redials.done(ticket)
            now = redials.look_again_at


def test_no_more_handshakes_are_in_flight_than_allowed() -> None:
    redials = Redials(RedialLimits(rate=0, at_once=32))
    for ticket in range(100):
        redials.take(ticket, HOST, 0)
    assert redials.go(0) == list(range(32))
    assert redials.look_again_at == math.inf
    redials.done(5)
    redials.done(5)
    redials.done("unknown")
    assert redials.go(0) == [32], "a handshake that has ended makes room once"
    assert len(served(redials, 100, fly_s=1)) == 0, "the first 32 hang: nobody else goes"


def test_a_host_that_hangs_does_not_delay_another() -> None:  # 6
    redials = Redials(RedialLimits(rate=50, burst=10, at_once=32, hosts={"slow.test": HostLimit(rate=0.1)}))
    for ticket in range(1000):
        redials.take(("hanging", ticket), "hanging.test:80", 0)
        redials.take(("slow", ticket), "slow.test:80", 0)
        redials.take(ticket, HOST, 0)
    alive = []
    now = 0.0
    while now <= 30:
        for ticket in redials.go(now):
            if isinstance(ticket, int):
                alive.append((now, ticket))
                redials.done(ticket)
        now = redials.look_again_at
    assert [ticket for _, ticket in alive] == list(range(1000))
    assert alive[-1][0] == pytest.approx(990 / 50)


def test_who_waits_keeps_its_turn_and_has_one_ticket() -> None:
    redials = Redials(RedialLimits(rate=1, burst=1))
    for ticket in ("a", "b", "c"):
        redials.take(ticket, HOST, 0)
    redials.take("a", HOST, 0)
    assert redials.waiting == 3
    assert [ticket for _, ticket in served(redials, 10)] == ["a", "b", "c"]


def test_who_changes_the_host_waits_there() -> None:
    redials = Redials(RedialLimits(rate=1, burst=1))
    redials.take("a", HOST, 0)
    redials.take("a", "other.test:443", 0)
    redials.take("b", HOST, 0)
    assert sorted(redials.go(0)) == ["a", "b"]


def test_a_cancelled_ticket_is_not_served_and_costs_nothing() -> None:
    redials = Redials(RedialLimits(rate=1, burst=1))
    for ticket in range(4):
        redials.take(ticket, HOST, 0)
    redials.cancel(0)
    redials.cancel(2)
    redials.cancel(2)
    assert served(redials, 10) == [(0, 1), (1, 3)]
    redials.take(0, HOST, 20)
    redials.cancel(0)
    assert served(redials, 30) == []
    assert redials.waiting == 0


def test_a_first_dial_goes_at_once_and_pays_where_there_is_a_ticket() -> None:
    redials = Redials(RedialLimits(rate=1, burst=2))
    redials.take_at_once("first", HOST, 0)
    redials.take("a", HOST, 0)
    redials.take("b", HOST, 0)
    assert redials.go(0) == ["a"]
    for ticket in range(100):
        redials.take_at_once(ticket, HOST, 0.5)
    assert redials.go(0.999) == []
    redials.done("first")
    for ticket in range(100):
        redials.done(ticket)
    assert redials.go(1) == ["b"], "a stream of creates keeps nobody from coming back"


def test_a_host_has_its_own_limit_by_name_or_by_name_and_port() -> None:
    limits = RedialLimits(
        hosts={"Slow.test": HostLimit(rate=1), "slow.test:81": HostLimit(burst=3), "::1": HostLimit(rate=2)}
    )
    assert limits.of(place_of("SLOW.test.", 80)) == (1, 10)
    assert limits.of(place_of("slow.test", 81)) == (50, 3)
    assert limits.of(place_of("other.test", 80)) == (50, 10)
    assert limits.of(place_of("[::1]", 80)) == limits.of(place_of("::1", 80)) == (2, 10)
    assert place_of("::1", 80) == "[::1]:80"


def test_other_limits_are_obeyed_at_once_and_nobody_loses_its_turn() -> None:
    redials = Redials(RedialLimits(rate=0.001, burst=2))
    for ticket in range(10):
        redials.take(ticket, HOST, 0)
    assert redials.go(0) == [0, 1]
    assert redials.look_again_at == 1_000
    redials.configure(RedialLimits(rate=0.001, burst=2), 250)
    assert redials.look_again_at == 1_000, "nothing has changed"
    redials.configure(RedialLimits(rate=1, burst=2), 250)
    assert redials.look_again_at == 250.75, "of the tickets that were paid three quarters of one are still owed"
    assert redials.go(250.5) == [] and redials.go(250.75) == [2]
    redials.configure(RedialLimits(rate=0.01, burst=1), 250.75)
    assert redials.go(251.75) == [] and redials.look_again_at == 252.75, (
        "what was paid at a faster one is not paid again"
    )
    assert redials.go(252.75) == [3] and redials.look_again_at == 352.75
    redials.configure(RedialLimits(rate=0), 253)
    assert redials.go(253) == list(range(4, 10))


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        (RedialLimits(rate=-1), "/rate"),
        (RedialLimits(rate=math.nan), "/rate"),
        (RedialLimits(rate=0.0001), "/rate"),
        (RedialLimits(burst=0), "/burst"),
        (RedialLimits(at_once=0), "/at_once"),
        (RedialLimits(at_once=MAX_LIMIT + 1), "/at_once"),
        (RedialLimits(hosts={"a b": HostLimit()}), "/hosts/a b"),
        (RedialLimits(hosts={"wss://h/": HostLimit()}), "/hosts/wss:~1~1h~1"),
        (RedialLimits(hosts={"h": HostLimit(rate=-1)}), "/hosts/h/rate"),
        (RedialLimits(hosts={"h": HostLimit(burst=0)}), "/hosts/h/burst"),
    ],
)
def test_a_limit_out_of_its_bounds_is_named_by_its_place(limits: RedialLimits, place: str) -> None:
    assert [one.pointer for one in limits.check()] == [place]
    assert not RedialLimits(
        rate=0, hosts={"h": HostLimit(0, 1), "h:1": HostLimit(), "::1": HostLimit(), "[::1]:1": HostLimit()}
    ).check()


def test_hosts_that_are_done_with_are_forgotten() -> None:
    redials = Redials(RedialLimits())
    for ticket in range(10_000):
        redials.take_at_once(ticket, f"h{ticket}.test:80", ticket)
        redials.done(ticket)
    assert len(redials._places) < 200
    for ticket in range(10_000):  # taking and cancelling again and again leaves nothing behind either
        redials.take(ticket, HOST, 20_000)
        redials.cancel(ticket)
    assert len(redials._heap) < 200


def storm(away_s: float, seed: int) -> tuple[list[float], list[float]]:
    """2,000 kept connections of one worker lose their server at 0. Return the times of all dials, and of the returns."""
    rng = random.Random(seed)
    redials = Redials(RedialLimits())
    dials: list[float] = []
    back: list[float] = []
    timers: list[tuple[float, int, bool]] = []
    keepers = []
    for index in range(2000):
        keeper = Keeper(DEFAULT, -100)
        keeper.began(-100)
        keeper.ready(-100)
        keepers.append(keeper)
        answer = keeper.ended(Ended(close_code=1006), 0, rng.random(), renewable=False)
        assert isinstance(answer, Redial)
        heapq.heappush(timers, (answer.at, index, False))
    while len(back) < 2000:
        now = min(timers[0][0] if timers else math.inf, redials.look_again_at)
        while timers and timers[0][0] <= now:
            _, index, dialled = heapq.heappop(timers)
            if not dialled:
                redials.take(index, HOST, now)
                continue
            redials.done(index)
            if now > away_s:
                back.append(now)
                continue
            answer = keepers[index].ended(Ended(err_code=ErrCode.REFUSED), now, rng.random(), renewable=False)
            assert isinstance(answer, Redial)
            heapq.heappush(timers, (answer.at, index, False))
        for ticket in redials.go(now):
            assert isinstance(ticket, int)
            dials.append(now)
            keepers[ticket].began(now)
            heapq.heappush(timers, (now + 0.02, ticket, True))
    return dials, back


def per_second(times: list[float], start: float) -> list[int]:
    counts = Counter(int(when - start) for when in times if when >= start)
    return [counts[second] for second in range(max(counts) + 1)]


def test_a_storm_is_bounded_and_over_in_time() -> None:  # 4 and 5, without sockets
    for away_s, back_within_s in ((3.0, 45), (60.0, 105)):
        dials, back = storm(away_s, seed=int(away_s))
        assert max(per_second(dials, 0)) <= 66
        accepts = per_second(back, away_s)
        assert accepts[0] <= 66
        assert max(accepts[1:]) <= 55
        assert max(back) - away_s <= back_within_s
    assert len(dials) < 6000, "away for a minute: not three dials each"


def test_ten_thousand_waiting_cost_no_more_each_than_ten() -> None:
    def cost(count: int) -> float:
        redials = Redials(RedialLimits(rate=0, at_once=1))
        began = time.process_time()
        for ticket in range(count):
            redials.take(ticket, HOST, 0)
        for ticket in range(0, count, 2):
            redials.cancel(ticket)
        while granted := redials.go(0):
            redials.done(granted[0])
        return (time.process_time() - began) / count

    # A queue that is searched, or whose holes are skipped again and again, would be a hundred times dearer, each time.
    assert any(cost(20_000) < 20 * max(min(cost(200) for _ in range(5)), 1e-6) for _ in range(10))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "first", "cancel", "done", "pass", "other"]), st.integers(0, 9), st.integers(0, 2)
        ),
        max_size=120,
    ),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_whatever_happens_nobody_is_lost_and_no_limit_is_passed(
    steps: list[tuple[str, int, int]], rate: float, burst: int, at_once: int
) -> None:
    redials = Redials(RedialLimits(rate=rate, burst=burst, at_once=at_once))
    places = ["a.test:1", "b.test:1", "c.test:1"]
    waiting: dict[int, str] = {}
    flying: dict[int, tuple[str, bool]] = {}
    granted: list[tuple[float, str]] = []
    now = 0.0

    def go() -> None:
        for ticket in redials.go(now):
            assert isinstance(ticket, int)
            place = waiting.pop(ticket)
            flying[ticket] = (place, True)
            granted.append((now, place))
            assert sum(1 for at, _ in flying.values() if at == place) <= max(
                at_once, 1 + sum(1 for at, waited in flying.values() if at == place and not waited)
            )

    for what, ticket, place in steps:
        if what in ("take", "first") and ticket not in flying:
            if what == "take":
                redials.take(ticket, places[place], now)
                waiting[ticket] = places[place]
            else:
                redials.take_at_once(ticket, places[place], now)
                waiting.pop(ticket, None)
                flying[ticket] = (places[place], False)
        elif what == "cancel":
            redials.cancel(ticket)
            waiting.pop(ticket, None)
        elif what == "done":
            redials.done(ticket)
            flying.pop(ticket, None)
        elif what == "pass":
            now = max(now, redials.look_again_at) if redials.look_again_at < math.inf else now + ticket
        go()
        assert redials.waiting == len(waiting)
    while waiting:
        for ticket in list(flying):
            redials.done(ticket)
            del flying[ticket]
        go()
        if waiting and not flying:
            assert redials.look_again_at < math.inf, f"{waiting} would wait for ever"
            now = max(now, redials.look_again_at)
    if rate:
        for place in places:
            times = [when for when, at in granted if at == place]
            for index, when in enumerate(times):
                within = [other for other in times[index:] if other <= when + 2]
                assert len(within) <= burst + 2 * rate + 1
