"""What an answer means: each row of the table, how the one unwanted event is found, and the one clock. No I/O."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_service.hooks.state import (
    GONE_APART_S,
    Answer,
    Do,
    Meaning,
    Progress,
    Rules,
    after_skip,
    begin,
    decide,
    delay_s,
    failing_at_s,
    meaning,
    outcome,
    room,
)

OK = Answer(status=200)


class Course:
    """A receiver and a hook with `count` events in front of it; no time passes but what is waited."""

    def __init__(self, count: int, answer: Callable[[list[int]], Answer], rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.progress = begin(self.rules)
        self.waiting = list(range(1, count + 1))
        self.answer = answer
        self.posts: list[list[int]] = []
        self.skipped: list[int] = []
        self.taken: list[int] = []
        self.now_s = 1_000.0
        self.waits: list[float] = []
        self.paused = ""
        self._same: list[int] | None = None

    def step(self) -> Do:
        suspect = self.progress.suspect
        suspects = sum(1 for position in self.waiting if suspect is not None and position <= suspect)
        cut = self._same or self.waiting[: room(self.progress, len(self.waiting), suspects)]
        self.posts.append(cut)
        decision = decide(self.progress, len(cut), cut[-1], self.answer(cut), self.rules, now_s=self.now_s, random=1.0)
        self.progress, self._same = decision.progress, cut if decision.same else None
        match decision.do:
            case Do.ADVANCE:
                self.taken += cut
                del self.waiting[: len(cut)]
            case Do.SKIP:
                self.skipped += cut
                del self.waiting[: len(cut)]
                self.progress = after_skip(self.progress)
            case Do.WAIT:
                self.waits.append(decision.delay_s)
                self.now_s += decision.delay_s
            case Do.PAUSE:
                self.paused = decision.pause
        return decision.do

    def run(self, most: int = 10_000) -> Course:
        for _ in range(most):
            if not self.waiting or self.paused or self.progress.held:
                break
            self.step()
        return self


@pytest.mark.parametrize(
    ("status", "means"),
    [
        *((status, Meaning.TAKEN) for status in (200, 201, 202, 204, 299)),
        *((status, Meaning.CONTENT) for status in (400, 413, 415, 422)),
        *((status, Meaning.OVERLOAD) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Meaning.CONFIGURATION) for status in (101, 301, 302, 307, 308, 401, 403, 404, 405, 407, 409, 418, 451)),
        (410, Meaning.GONE),
        (None, Meaning.UNKNOWN),
    ],
)  # fmt: skip
def test_each_status_means_one_thing(status: int | None, means: Meaning) -> None:
    assert meaning(Answer(status=status)) is means


def test_every_status_is_counted_as_one_outcome() -> None:
    counted = {status: outcome(Answer(status=status)) for status in range(100, 600)}
    assert {counted[200], counted[400], counted[500], counted[302]} == {"ok", "refused", "failed"}
    assert outcome(Answer(reason="timeout")) == "timeout" and outcome(Answer(reason="network")) == "failed"
    assert outcome(Answer(reason="policy")) == "policy"


@given(st.integers(1, 500), st.sampled_from([400, 413, 415, 422]))
def test_one_unwanted_event_is_found_in_twelve_requests_and_all_before_it_is_taken(poison: int, status: int) -> None:
    course = Course(500, lambda cut: Answer(status=status) if poison in cut else OK).run()
    assert course.progress.held and course.posts[-1] == [poison]
    assert course.taken == list(range(1, poison)), "nothing behind it, and nothing twice"
    at = next(at for at, cut in enumerate(course.posts) if poison in cut)
    assert len(course.posts) - at <= 12
    assert failing_at_s(course.progress) == course.progress.since_s, "it is Failing at once"


@given(st.sets(st.integers(1, 300), max_size=9))
def test_with_skip_the_unwanted_are_skipped_and_all_others_taken(poison: set[int]) -> None:
    rules = Rules(skips=True)
    course = Course(300, lambda cut: Answer(status=422) if poison & set(cut) else OK, rules).run()
    assert course.skipped == sorted(poison)
    assert course.taken == [position for position in range(1, 301) if position not in poison]
    assert not course.waits, "the endpoint lives: nothing is waited for"


def test_a_receiver_that_wants_nothing_is_held_after_ten_skips() -> None:
    course = Course(500, lambda cut: Answer(status=400), Rules(skips=True)).run()
    assert len(course.skipped) == 10 and course.progress.held and not course.taken


def test_abort_message_skips_one_event_whatever_the_status_and_with_hold() -> None:
    course = Course(
        100, lambda cut: Answer(status=500, delivery="abort-message") if 33 in cut else OK, Rules(skips=False)
    ).run()
    assert course.skipped == [33] and len(course.taken) == 99


def test_too_large_batches_settle_below_what_is_taken() -> None:
    course = Course(20_000, lambda cut: Answer(status=413) if len(cut) > 70 else OK).run()
    assert len(course.taken) == 20_000 and not course.waits
    refused = sum(len(cut) > 70 for cut in course.posts)
    assert refused < len(course.posts) / 20


@given(st.sampled_from([401, 403, 404, 405, 302, 101]))
def test_a_wrong_configuration_is_neither_skipped_nor_halved(status: int) -> None:
    course = Course(500, lambda cut: Answer(status=status), Rules(skips=True))
    for _ in range(100):
        assert course.step() is Do.WAIT
    assert all(len(cut) == 500 for cut in course.posts) and not course.skipped
    assert sum(course.waits) > 3_600, "an hour of it is fewer than a hundred requests"


def test_overload_halves_from_the_second_failure_and_grows_again() -> None:
    course = Course(5_000, lambda cut: Answer(status=503))
    for _ in range(5):
        course.step()
    assert [len(cut) for cut in course.posts] == [500, 500, 250, 125, 62]
    course.answer = lambda cut: OK
    course.posts.clear()
    course.run()
    assert [len(cut) for cut in course.posts[:6]] == [31, 62, 124, 248, 496, 500]


def test_an_unknown_outcome_sends_the_very_same_batch_and_halves_from_the_fourth_on() -> None:
    course = Course(500, lambda cut: Answer(reason="timeout"))
    for _ in range(6):
        course.step()
    assert [len(cut) for cut in course.posts] == [500, 500, 500, 500, 250, 125]


def test_gone_takes_two_of_them_apart_and_nothing_in_between() -> None:
    course = Course(10, lambda cut: Answer(status=410))
    while not course.paused:
        course.step()
    assert course.paused == "gone" and sum(course.waits) >= GONE_APART_S
    once = Course(10, lambda cut: Answer(status=410), Rules(max_events=1))
    once.step()
    once.answer = lambda cut: OK
    once.step()
    once.now_s += 1_000
    once.answer = lambda cut: Answer(status=410)
    assert once.step() is Do.WAIT and once.progress.gone_at_s == once.now_s - once.waits[-1]


def test_the_receivers_word_pauses_also_with_a_success_which_counts() -> None:
    for status, taken in ((200, True), (404, False)):
        course = Course(10, lambda cut, status=status: Answer(status=status, delivery="disable"))
        assert course.step() is Do.PAUSE and course.paused == "receiver"
        assert (course.progress.since_s is None) is taken


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_clock_doubles_to_its_longest_and_has_half_of_it_as_jitter(failures: int, random: float) -> None:
    rules = Rules(delay_s=1.0, max_delay_s=60.0)
    clock_s = min(60.0, 2.0 ** min(failures - 1, 30))
    assert clock_s / 2 <= delay_s(failures, rules, None, random) <= clock_s


@given(st.floats(0, 1e9), st.integers(1, 50))
def test_retry_after_is_kept_and_never_longer_than_an_hour(asked_s: float, failures: int) -> None:
    found = delay_s(failures, Rules(), asked_s, 0.5)
    assert found <= 3_600 and found >= min(asked_s, 3_600)
    assert found == max(delay_s(failures, Rules(), None, 0.5), min(asked_s, 3_600))


def test_policy_is_failing_at_once_and_other_failures_after_a_minute() -> None:
    for answer, after_s in (
        (Answer(reason="policy"), 0.0),
        (Answer(status=500), 60.0),
        (Answer(reason="network"), 60.0),
    ):
        decision = decide(Progress(1, 1), 1, 1, answer, Rules(), now_s=50.0, random=0.0)
        assert failing_at_s(decision.progress) == 50.0 + after_s
    assert failing_at_s(begin(Rules())) is None


ANSWERS = st.one_of(
    st.builds(
        Answer,
        status=st.sampled_from([200, 204, 302, 400, 401, 408, 410, 413, 422, 429, 500, 503]),
        delivery=st.sampled_from(["", "", "", "abort-message"]),
        retry_after_s=st.one_of(st.none(), st.floats(0, 1e7)),
    ),
    st.builds(Answer, reason=st.sampled_from(["timeout", "network", "policy"])),
)


@given(st.lists(ANSWERS, max_size=60), st.booleans(), st.integers(1, 64))
def test_whatever_is_answered_nothing_is_lost_or_out_of_order(answers: list[Answer], skips: bool, size: int) -> None:
    given_ = iter(answers)
    course = Course(200, lambda cut: next(given_, OK), Rules(skips=skips, max_events=size))
    for _ in range(len(answers)):
        if course.paused or not course.waiting:
            break
        course.step()
    if course.paused:
        assert course.paused == "gone"
        course.paused = ""
    course.progress = after_skip(course.progress)  # as a person who helps would
    course.answer = lambda cut: OK
    course.run()
    assert sorted(course.taken + course.skipped) == list(range(1, 201)), "each is taken or skipped, once"
    assert course.taken == sorted(course.taken)
    assert all(1 <= len(cut) <= size for cut in course.posts)
