"""What an answer of a receiver means, how large the next batch is, and when it goes out. Pure: no clock, no I/O.

A batch is taken as a whole or not at all, and its order is kept; so one event that the receiver does not want holds all that
follow it. It is sought by halves, at once, and then held or skipped. After an outcome that nobody knows (a timeout, a reset) the
very same batch goes out again, under the same id: it may have been taken.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec
from msgspec.structs import replace

HALVE_OVERLOAD_FROM = 2  # failures in a row
HALVE_UNKNOWN_FROM = 4
MAX_SKIPS = 10  # without a success: a broken deployment must not drain the journal
GONE_APART_S = 30.0  # two 410 of one rollout of a proxy are closer
FAILING_AFTER_S = 60.0
MAX_RETRY_AFTER_S = 3_600.0
LIFT_AFTER = 64  # successes at a ceiling, before a larger batch is tried again

Reason = Literal["refused", "status", "timeout", "network", "policy"]
Outcome = Literal["ok", "refused", "failed", "timeout", "policy"]


class Meaning(Enum):
    """What an answer says."""

    TAKEN = "taken"  # all of it
    CONTENT = "content"  # this content is not wanted
    GIVEN_UP = "given up"  # the receiver's word: without this batch
    CONFIGURATION = "configuration"  # a wrong URL, credential or method
    OVERLOAD = "overload"  # or a fault of the receiver
    GONE = "gone"
    UNKNOWN = "unknown"  # there was no answer: it may have been taken
    POLICY = "policy"  # nothing was sent


STATUS_MEANS: tuple[tuple[frozenset[int], Meaning], ...] = (
    (frozenset(range(200, 300)), Meaning.TAKEN),
    (frozenset({400, 413, 415, 422}), Meaning.CONTENT),
    (frozenset({408, 425, 429, *range(500, 600)}), Meaning.OVERLOAD),
    (frozenset({410}), Meaning.GONE),
)
"""Any other status is one of configuration, 101 and redirects too: it is retried, never skipped, never halved."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt has ended.

    Attributes:
        status: Of the answer; None: there was none.
        delivery: The receiver's ``webhook-delivery``, in lower case.
        retry_after_s: What its ``Retry-After`` asks for.
        error: In words; no query, no header, nothing of a body.
        reason: Of a failure without a status.
        skew_s: The receiver's clock minus ours, by its ``Date``.
    """

    status: int | None = None
    delivery: str = ""
    retry_after_s: float | None = None
    error: str = ""
    reason: Reason = "status"
    skew_s: float | None = None


class Rules(msgspec.Struct, frozen=True):
    """What the hook's definition says of it."""

    delay_s: float = 1.0
    max_delay_s: float = 60.0
    skips: bool = False
    max_events: int = 500


class Progress(msgspec.Struct, frozen=True):
    """Where a hook stands with its receiver.

    Attributes:
        size: How many events the next batch may hold.
        ceiling: It does not grow above it: a larger one was too large (413).
        at_ceiling: Successes since.
        failures: Since the last success: what the retry clock counts.
        unknown: Of these, those in a row that nobody knows the outcome of.
        suspect: Position of the last event of a range that was refused as a whole; None: none is.
        skips: Since the last success.
        gone_at_s: When the first 410 came.
        since_s: When the first failure came.
        reason, status, error: Of the last one.
        held: The event in front is refused, by itself.
    """

    size: int
    ceiling: int
    at_ceiling: int = 0
    failures: int = 0
    unknown: int = 0
    suspect: int | None = None
    skips: int = 0
    gone_at_s: float | None = None
    since_s: float | None = None
    reason: Reason | None = None
    status: int | None = None
    error: str = ""
    held: bool = False


class Do(Enum):
    """What comes next."""

    ADVANCE = "advance"  # it is taken
    SKIP = "skip"  # go on behind it, and say so
    AGAIN = "again"  # at once, smaller
    WAIT = "wait"
    PAUSE = "pause"


class Decision(msgspec.Struct, frozen=True):
    """What is done about an answer.

    Attributes:
        same: The very same batch goes out again: it is not cut anew.
        pause: Why it is paused.
    """

    do: Do
    progress: Progress
    delay_s: float = 0.0
    same: bool = False
    pause: str = ""


def begin(rules: Rules) -> Progress:
    """Return where a hook begins."""
    return Progress(rules.max_events, rules.max_events)


def meaning(answer: Answer) -> Meaning:
    """Return what `answer` says."""
    if answer.reason == "policy":
        return Meaning.POLICY
    if answer.status is None:
        return Meaning.UNKNOWN
    found = next((means for statuses, means in STATUS_MEANS if answer.status in statuses), Meaning.CONFIGURATION)
    return Meaning.GIVEN_UP if answer.delivery == "abort-message" and found is not Meaning.TAKEN else found


def outcome(answer: Answer) -> Outcome:
    """Return what `answer` is counted as."""
    match meaning(answer):
        case Meaning.TAKEN:
            return "ok"
        case Meaning.CONTENT | Meaning.GIVEN_UP:
            return "refused"
        case Meaning.POLICY:
            return "policy"
        case Meaning.UNKNOWN if answer.reason == "timeout":
            return "timeout"
        case _:
            return "failed"


def room(progress: Progress, waiting: int, suspects: int) -> int:
    """Return how many events the next batch holds.

    Args:
        waiting: How many there are.
        suspects: How many of them belong to the refused range.
    """
    wanted = min(progress.size, waiting)
    return max(1, min(wanted, suspects // 2)) if suspects else wanted


def decide(
    progress: Progress, count: int, last: int, answer: Answer, rules: Rules, *, now_s: float, random: float
) -> Decision:
    """Return what is done about the answer to a batch.

    Args:
        count: Of its events.
        last: The position of the last one.
        now_s: Of any clock that only goes forward.
        random: 0 to 1, for the jitter.
    """
    means = meaning(answer)
    if means is Meaning.TAKEN:
        taken = _taken(progress, last, rules)
        return Decision(Do.PAUSE if answer.delivery == "disable" else Do.ADVANCE, taken, pause=_pause_of(answer))
    failed = replace(
        progress,
        failures=progress.failures + 1,
        unknown=progress.unknown + 1 if means is Meaning.UNKNOWN else 0,
        since_s=now_s if progress.since_s is None else progress.since_s,
        reason="refused" if means in (Meaning.CONTENT, Meaning.GIVEN_UP) else answer.reason,
        status=answer.status,
        error=answer.error,
        held=False,
    )
    if answer.delivery == "disable":
        return Decision(Do.PAUSE, failed, pause=_pause_of(answer))
    if means in (Meaning.CONTENT, Meaning.GIVEN_UP):
        return _refused(failed, count, last, answer, rules, means, random)
    if means is Meaning.GONE:
        if failed.gone_at_s is not None and now_s - failed.gone_at_s >= GONE_APART_S:
            return Decision(Do.PAUSE, failed, pause="gone")
        failed = replace(failed, gone_at_s=now_s if failed.gone_at_s is None else failed.gone_at_s)
    same = means is Meaning.UNKNOWN and failed.unknown < HALVE_UNKNOWN_FROM
    too_much = means is Meaning.OVERLOAD and failed.failures >= HALVE_OVERLOAD_FROM
    if too_much or (means is Meaning.UNKNOWN and not same):
        failed = replace(failed, size=max(1, count // 2))
    return Decision(Do.WAIT, failed, delay_s=delay_s(failed.failures, rules, answer.retry_after_s, random), same=same)


def _pause_of(answer: Answer) -> str:
    return "receiver" if answer.delivery == "disable" else ""


def _taken(progress: Progress, last: int, rules: Rules) -> Progress:
    suspect = None if progress.suspect is not None and last >= progress.suspect else progress.suspect
    ceiling, at_ceiling = progress.ceiling, progress.at_ceiling
    if ceiling < rules.max_events:
        at_ceiling += 1
        if at_ceiling >= LIFT_AFTER:
            ceiling, at_ceiling = min(rules.max_events, 2 * ceiling), 0
    size = progress.size if suspect is not None else min(2 * progress.size, ceiling, rules.max_events)
    return Progress(size, ceiling, at_ceiling, suspect=suspect)


def _refused(
    failed: Progress, count: int, last: int, answer: Answer, rules: Rules, means: Meaning, random: float
) -> Decision:
    if count > 1:
        # The receiver lives, so this is no failure of the clock's.
        smaller = replace(failed, suspect=last, size=max(1, count // 2), failures=failed.failures - 1)
        if answer.status == 413:
            smaller = replace(smaller, ceiling=max(1, count // 2), at_ceiling=0)
        return Decision(Do.AGAIN, smaller)
    asked = means is Meaning.GIVEN_UP
    if asked or (rules.skips and failed.skips < MAX_SKIPS):
        suspect = None if failed.suspect is not None and last >= failed.suspect else failed.suspect
        passed = replace(failed, suspect=suspect, skips=failed.skips + (not asked))
        return Decision(Do.SKIP, passed)
    held = replace(failed, held=True, suspect=last)
    return Decision(Do.WAIT, held, delay_s=delay_s(failed.failures, rules, answer.retry_after_s, random))


def after_skip(progress: Progress) -> Progress:
    """Return where a hook stands once what it held is skipped: nothing has failed any more."""
    return Progress(
        progress.size, progress.ceiling, progress.at_ceiling, suspect=progress.suspect, skips=progress.skips
    )


def delay_s(failures: int, rules: Rules, retry_after_s: float | None, random: float) -> float:
    """Return how long to wait after so many failures in a row: half to all of the clock, and what the receiver asks for."""
    clock_s = min(rules.max_delay_s, rules.delay_s * 2.0 ** min(failures - 1, 20))
    own_s = clock_s * (0.5 + random / 2)
    return own_s if retry_after_s is None else max(own_s, min(retry_after_s, MAX_RETRY_AFTER_S))


def failing_at_s(progress: Progress) -> float | None:
    """Return from when on the hook is to be called Failing (a time of `decide`'s clock); None: it is not failing."""
    if progress.since_s is None:
        return None
    return progress.since_s if progress.held or progress.reason == "policy" else progress.since_s + FAILING_AFTER_S
