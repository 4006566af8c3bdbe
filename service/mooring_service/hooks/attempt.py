"""One attempt: a batch becomes bytes, is signed as of now, and posted; how it ended is noted with the hook."""

from __future__ import annotations

import logging
import time

from mooring.events import now_us, rfc3339
from mooring_service.hook_records import AttemptRecord, HookTested
from mooring_service.hooks.hook import BATCH_EVENTS, Hook
from mooring_service.hooks.page import Cut, body_of, headers_of, webhook_id
from mooring_service.hooks.post import Poster, Request
from mooring_service.hooks.state import Answer, outcome

MAX_SKEW_S = 60.0

log = logging.getLogger("mooring.hooks")


async def attempt(hook: Hook, poster: Poster, cut: Cut) -> Answer:
    """Post `cut`; its events were taken, or they were not."""
    definition = hook.definition
    hook.attempt += 1
    hook.next_attempt_s = None
    body = body_of(hook.name, cut, definition.format)
    answer, record = await _posted(hook, poster, cut, body, hook.attempt)
    hook.attempts.append(record)
    counted, figures = outcome(answer), hook.figures
    figures.attempts[counted] += 1
    figures.seconds.observe(record.ms / 1_000)
    if counted == "ok":
        figures.events += cut.count
        figures.bytes += len(body)
        figures.batches.observe(cut.count, BATCH_EVENTS)
    return answer


async def _posted(
    hook: Hook, poster: Poster, cut: Cut, body: bytes, attempt: int, *, test: str = ""
) -> tuple[Answer, AttemptRecord]:
    definition = hook.definition
    time_us = now_us()
    number = (
        f"{hook.name}-{cut.generation}_test-{test}"
        if test
        else webhook_id(hook.name, cut.generation, cut.after, cut.next)
    )
    headers = headers_of(
        hook.name, cut, definition.format, number=number, body=body, keys=hook.keys(time_us), time_s=time_us // 1_000_000,
        attempt=attempt, test=bool(test),
    )  # fmt: skip
    begun = time.monotonic()
    answer = await poster.post(definition, Request(headers, body))
    ms = round((time.monotonic() - begun) * 1_000, 3)
    _note_skew(hook, answer)
    return answer, AttemptRecord(
        rfc3339(time_us),
        cut.count,
        len(body),
        cut.after,
        cut.next,
        answer.status,
        ms,
        answer.error,
        answer.retry_after_s,
    )


def _note_skew(hook: Hook, answer: Answer) -> None:
    if answer.skew_s is not None:
        late = abs(answer.skew_s) > MAX_SKEW_S
        if late and abs(hook.skew_s or 0.0) <= MAX_SKEW_S:
            log.warning(
                "the clock of hook %s's receiver differs from ours by %.0f s: it may refuse what we sign",
                hook.name, answer.skew_s, extra={"hook": hook.name},
            )  # fmt: skip
        hook.skew_s = answer.skew_s


async def test(hook: Hook, poster: Poster, token: str) -> HookTested:
    """Post once, without an event, on a socket of its own."""
    after = hook.place.after if not hook.place.epoch else f"{hook.place.epoch}-{hook.place.position}"
    cut = Cut(hook.place.generation, after, after, hook.place.position, [])
    try:
        body = body_of(hook.name, cut, hook.definition.format, test=True)
        answer, record = await _posted(hook, poster, cut, body, 1, test=token)
    finally:
        poster.close()
    return HookTested(answer.status, record.ms, answer.error)
