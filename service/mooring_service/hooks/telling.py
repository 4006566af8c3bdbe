"""What hooks say about themselves: one event and one line of the log for each change, none for each attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from mooring.events import (
    HookFailingEvent,
    HookPausedEvent,
    HookRecoveredEvent,
    HookSkippedEvent,
    Kind,
    now_us,
    rfc3339,
)
from mooring_service.hooks.hook import Hook
from mooring_service.hooks.place import Failing

Tell = Callable[[Kind, msgspec.Struct], None]
"""Records an event of the service itself."""

log = logging.getLogger("mooring.hooks")


def failing(hook: Hook, tell: Tell) -> bool:
    """Say that a hook is Failing, once until it works again; say whether there was anything to tell."""
    if hook.place.failing is not None or not hook.is_failing:
        return False
    progress, since_us = hook.progress, hook.failing_since_us
    assert progress.reason is not None and since_us is not None, "it has failed"
    hook.place = replace(hook.place, failing=Failing(since_us, progress.reason))
    log.error("hook %s is failing: %s", hook.name, progress.error or progress.reason, extra={"hook": hook.name})
    event = HookFailingEvent(
        hook=hook.name,
        reason=progress.reason,
        status=progress.status,
        error=progress.error,
        failing_since=rfc3339(since_us),
    )
    tell(Kind.hookFailing, event)
    return True


def recovered(hook: Hook, tell: Tell) -> bool:
    """Say that nothing fails any more, if it was said that something does; say whether it was."""
    told = hook.place.failing
    if told is None:
        return False
    hook.place = replace(hook.place, failing=None)
    down_ms = max(0.0, round((now_us() - told.since_us) / 1_000, 3))
    log.warning("hook %s works again", hook.name, extra={"hook": hook.name})
    tell(Kind.hookRecovered, HookRecoveredEvent(hook=hook.name, down_ms=down_ms))
    return True


def late(hook: Hook, lag_s: float, max_age_s: float) -> None:
    """Warn, once, of a hook that lacks events which are about to be pruned; that is for the log: `gap` is the event."""
    was_late, hook.is_late = hook.is_late, lag_s > max_age_s / 2
    if hook.is_late and not was_late:
        log.warning(
            "hook %s lacks events that are %.0f s old; the journal keeps them for %.0f s, then they are a gap",
            hook.name, lag_s, max_age_s, extra={"hook": hook.name},
        )  # fmt: skip


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
