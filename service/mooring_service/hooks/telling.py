"""What hooks say about themselves: one event and one line of the log for each change, none for each attempt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from mooring.events import HookFailingEvent, HookPausedEvent, HookRecoveredEvent, HookSkippedEvent, Kind, rfc3339
from mooring_service.hooks.hook import Hook

Tell = Callable[[Kind, msgspec.Struct], None]
"""Records an event of the service itself."""

log = logging.getLogger("mooring.hooks")


def failing(hook: Hook, tell: Tell) -> None:
    """Say that a hook is Failing, once."""
    if hook.was_failing or not hook.is_failing:
        return
    hook.was_failing = True
    progress, since_us = hook.progress, hook.failing_since_us
    assert progress.reason is not None and since_us is not None, "it has failed"
    log.error("hook %s is failing: %s", hook.name, progress.error or progress.reason, extra={"hook": hook.name})
    event = HookFailingEvent(
        hook=hook.name,
        reason=progress.reason,
        status=progress.status,
        error=progress.error,
        failing_since=rfc3339(since_us),
    )
    tell(Kind.hookFailing, event)


def recovered(hook: Hook, tell: Tell) -> None:
    """Say that nothing fails any more, if it was said that something does."""
    if not hook.was_failing:
        return
    hook.was_failing = False
    down_ms = round((time.monotonic() - (hook.progress.since_s or 0.0)) * 1_000, 3)
    log.warning("hook %s works again", hook.name, extra={"hook": hook.name})
    tell(Kind.hookRecovered, HookRecoveredEvent(hook=hook.name, down_ms=down_ms))


def paused(hook: Hook, tell: Tell, reason: str) -> None:
    """Say that a hook is paused."""
    log.warning("hook %s is paused: %s", hook.name, reason, extra={"hook": hook.name})
    tell(Kind.hookPaused, HookPausedEvent(hook=hook.name, reason=reason))


def skipped(hook: Hook, tell: Tell, ids: list[str], status: int | None) -> None:
    """Say that events are given up."""
    log.warning("hook %s skips %d events, %s to %s", hook.name, len(ids), ids[0], ids[-1], extra={"hook": hook.name})
    tell(
        Kind.hookSkipped,
        HookSkippedEvent(hook=hook.name, from_=ids[0], through=ids[-1], count=len(ids), status=status),
    )
