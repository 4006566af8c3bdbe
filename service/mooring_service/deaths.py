"""What is written of a process that has ended: what became of its connections, then that it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mooring.errors import ErrCode
from mooring.events import Kind, WorkerExitedEvent, now_us, worker_body
from mooring.kept_events import Cause
from mooring_service.columns import joined
from mooring_service.directory import Entry
from mooring_service.endings import Endings
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_process import Exit
from mooring_service.reopening import Reopenings, losses

BATCH = 500
"""Of so many connections it is written at a time: of thousands at once it would keep the loop. Should this process die in between, the
next one finds the rest, and that the process has ended."""


class Deaths:
    """Writes down how processes end."""

    def __init__(self, journal: Journal, endings: Endings, reopenings: Reopenings) -> None:
        self._journal = journal
        self._endings = endings
        self._reopenings = reopenings

    async def write(
        self,
        slot: Slot,
        live: list[Entry],
        ended: Exit,
        reason: str,
        *,
        restarting: bool,
        asked: bool,
        save: Callable[[], Awaitable[None]],
    ) -> int:
        """Report what the process of `slot` could not, and that it has ended; return how many connections ended with it.

        Args:
            live: Its connections that have not ended.
            restarting: Another process will follow.
            asked: It was told to end.
            save: Keeps that the process has ended; at the same time as that is told.
        """
        text = reason if asked else f"the worker died: {reason}"
        err_code = ErrCode.WORKER_STOPPING if asked else ErrCode.WORKER_DIED
        cause = _cause(slot, asked=asked)
        staying: list[Entry] = []
        lost: list[Entry] = []
        slot.unsent += sum(entry.update.kept.queued_messages for entry in live if entry.update.kept is not None)
        for entry in live:
            (staying if self._goes_on(entry, slot, asked=asked) else lost).append(entry)
        *first_staying, last_staying = _batches(staying)
        *first_lost, last_lost = _batches(lost)
        for entries in first_staying:
            down = self._losses(entries, slot, cause, text, err_code)
            slot.disconnects[cause] += down.kinds.count(Kind.onDisconnect)
            await self._journal.append_waiting(down)
        count = 0
        for entries in first_lost:
            written = await self._endings.write(entries, text, err_code)
            slot.failures[err_code] += written.kinds.count(Kind.onError)
            count += len(written.updates)
        down = self._losses(last_staying, slot, cause, text, err_code)
        exited = _exited(slot, ended, reason, restarting=restarting, asked=asked)
        written, _ = await asyncio.gather(
            self._endings.write(last_lost, text, err_code, then=joined(down, exited)), save()
        )
        slot.failures[err_code] += written.kinds.count(Kind.onError)
        slot.disconnects[cause] += down.kinds.count(Kind.onDisconnect)
        return count + len(written.updates)

    def _goes_on(self, entry: Entry, slot: Slot, *, asked: bool) -> bool:
        if asked and not slot.drains and not (slot.persists and entry.created.persists):
            return False
        return self._reopenings.stays(entry)

    def _losses(self, staying: list[Entry], slot: Slot, cause: Cause, text: str, err_code: ErrCode) -> Append:
        entries = [entry for entry in staying if self._reopenings.stays(entry)]  # nobody has ended it meanwhile
        if slot.drains:
            return losses(entries, "the worker was drained", ErrCode.WORKER_DRAINED, cause)
        return losses(entries, text, err_code, cause)


def _batches(entries: list[Entry]) -> list[list[Entry]]:
    """Return the entries in batches, the last of which may be empty."""
    return [entries[begin : begin + BATCH] for begin in range(0, len(entries), BATCH)] or [[]]


def _cause(slot: Slot, *, asked: bool) -> Cause:
    """Return why the connections that stay lose the process of `slot`."""
    if asked:
        return "drained" if slot.drains else "serviceStopped"
    if slot.drains:
        return "drained"
    return "workerDied" if slot.version else "serviceRestarted"  # dead before it could say hello to this service


def _exited(slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> Append:
    """Return what says that a process has ended, and settles what was asked of it."""
    event = WorkerExitedEvent(
        pid=slot.record.pid,
        exit_code=ended.exit_code,
        signal=ended.signal,
        reason=reason,
        restarting=restarting,
    )
    return Append(
        worker=slot.name,
        connections=bytes(8),
        kinds=bytes((Kind.workerExited,)),
        bodies=worker_body(Kind.workerExited, slot.name, now_us(), event),
        ended=slot.incarnation,
        asks_done=[*slot.ended_for, *(slot.handed if asked else ())],
    )
