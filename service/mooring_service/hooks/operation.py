"""What is asked of a hook that is there: to pause, to go on, to try, to move, to skip."""

from __future__ import annotations

import asyncio
import secrets
import time

from msgspec.structs import replace

from mooring.errors import Invalid, InvalidRequest, LimitReached
from mooring_service.admission import Admission
from mooring_service.hook_errors import HookConflict
from mooring_service.hook_records import HookRecord, HookTested
from mooring_service.hooks.attempt import test
from mooring_service.hooks.hook import Hook
from mooring_service.hooks.place import stored
from mooring_service.hooks.senders import NO_SECRET, NOT_CONFIGURED, Senders

TEST_EVERY_S = 1.0


class Operation:
    """The verbs of one hook that leave its definition alone.

    Args:
        changing: Held by whoever moves a hook, or defines it.
    """

    def __init__(self, admission: Admission, senders: Senders, changing: asyncio.Lock) -> None:
        self.senders = senders
        self._admission = admission
        self._changing = changing
        self._tested_s = 0.0

    def _record(self, hook: Hook) -> HookRecord:
        return self.senders.record_of(hook)

    def start_of(self, after: str) -> int:
        """Return the position that `after` names.

        Raises:
            InvalidRequest: If it is no place of this journal.
        """
        position = self.senders.find(after)
        if position is None:
            raise InvalidRequest(
                [Invalid("/after", "is not the id of an event of this journal (of another epoch, or to come)")]
            )
        return position

    async def pause(self, name: str, reason: str) -> HookRecord:
        """Post nothing more to a hook until it is resumed.

        Raises:
            UnknownHook: If there is none of that name.
        """
        sender = self.senders.get(name)
        hook = sender.hook
        if hook.paused is None:
            await sender.pause(reason or "asked")
            sender.wake()
        elif hook.paused in (NOT_CONFIGURED, NO_SECRET) and hook.also_paused is None:
            hook.also_paused = reason or "asked"
            await self.senders.save()
        return self._record(hook)

    async def resume(self, name: str) -> HookRecord:
        """Go on at once.

        Raises:
            UnknownHook: If there is none of that name.
            HookConflict: If it is no longer in the configuration, or has no secret to sign with.
        """
        sender = self.senders.get(name)
        hook = sender.hook
        if hook.paused == NOT_CONFIGURED:
            raise HookConflict(f"the hook {name!r} is no longer in the configuration")
        _need_secret(hook)
        if hook.paused is not None:
            hook.paused = None
            hook.progress = replace(hook.progress, gone_at_s=None)
            await self.senders.save()
        sender.wake()
        return self._record(hook)

    def retry(self, name: str) -> HookRecord:
        """Try at once what waits for the retry clock.

        Raises:
            UnknownHook: If there is none of that name.
        """
        sender = self.senders.get(name)
        sender.wake()
        return self._record(sender.hook)

    async def test(self, name: str) -> HookTested:
        """Post once, without an event; also while it is paused.

        Raises:
            UnknownHook: If there is none of that name.
            HookConflict: If it has no secret to sign with.
            LimitReached: More than once a second.
        """
        hook = self.senders.get(name).hook
        _need_secret(hook)
        now_s = time.monotonic()
        if now_s < self._tested_s + TEST_EVERY_S:
            raise LimitReached("test posts per second", 1)
        self._tested_s = now_s
        return await test(hook, self.senders.poster(), secrets.token_hex(8))

    async def move(self, name: str, after: str) -> HookRecord:
        """Go on behind `after`: a replay, or a jump.

        Raises:
            UnknownHook: If there is none of that name.
            InvalidRequest: If `after` is no place of this journal.
            JournalUnavailable: If the place cannot be stored.
        """
        self._admission.check_writable()
        async with self._changing:
            sender = self.senders.get(name)
            position = self.start_of(after)
            await sender.halt()
            sender.forget_failures()
            hook, epoch = sender.hook, self.senders.journal.epoch
            hook.place = replace(
                hook.place,
                generation=hook.place.generation + 1,
                epoch=epoch,
                position=position,
                after=f"{epoch}-{position}",
            )
            await self.senders.journal.save_hook(stored(name, hook.place))
            self.senders.go_on(sender)
            return self._record(hook)

    async def skip(self, name: str, through: str) -> int:
        """Give up what waits to be posted, up to the event `through`; return how many events that is.

        Raises:
            UnknownHook: If there is none of that name.
            HookConflict: If `through` does not lie in the batch that waits.
            JournalUnavailable: If that cannot be recorded.
        """
        self._admission.check_writable()
        async with self._changing:
            sender = self.senders.get(name)
            cut = sender.hook.cut if sender.hook.attempt else None
            ids = [] if cut is None else [cut.id_of(position) for position, _ in cut.events]
            if cut is None or through not in ids:
                raise HookConflict(f"the event {through!r} is not among those that hook {name!r} waits to post again")
            count = ids.index(through) + 1
            events = cut.events[:count]
            whole = count == cut.count
            status = sender.hook.progress.status
            await sender.halt()
            await sender.skip(events, cut.position if whole else events[-1][0], cut.next if whole else through, status)
            self.senders.go_on(sender)
            return count


def _need_secret(hook: Hook) -> None:
    """Raise `HookConflict` where a post would be unsigned: no file of secrets that the configuration names was ever readable."""
    if not hook.secrets:
        raise HookConflict(f"the hook {hook.name!r} has no secret: its secret_file cannot be used, as the log says")
