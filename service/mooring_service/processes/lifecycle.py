"""The life of a worker, as a sequence: start, watch, take leave, wait, start again; until it is told to end, or has failed.

One task per worker lives as long as its slot does (`run`). It waits on events (linked, exited, told to stop, a deadline);
`watch` is the part of it that goes on while a process lives. One object serves all workers: what differs is in their slots.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time

import msgspec

from mooring.deadline import first_of, within
from mooring.errors import JournalUnavailable, MooringError, WorkerDied
from mooring_service.config import SupervisorConfig
from mooring_service.processes import worker_process
from mooring_service.processes.reports import Reports
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.starter import Starter
from mooring_service.processes.turns import Turns
from mooring_service.processes.watch import ADOPT_S, watch
from mooring_service.processes.worker_process import Exit, ProcessIdentity
from mooring_service.processes.worker_state import WorkerEvent, WorkerState
from mooring_service.records import Killed

DRAIN_LINK_S = 2.0  # after a death: what is still in the socket is read for so long at most
WRITE_RETRY_S = 1.0  # a restart that the journal cannot write down is tried again so often

log = logging.getLogger("mooring.supervisor")


class Lifecycle:
    """What happens to a worker, in which order."""

    def __init__(self, config: SupervisorConfig, starter: Starter, reports: Reports, roster: Roster) -> None:
        self._config = config
        self._starter = starter
        self._reports = reports
        self._roster = roster
        # Many that start at once only keep each other from it: a start is work for a whole core.
        self._turns = Turns(len(os.sched_getaffinity(0)) + 1)

    async def run(self, slot: Slot, *, adopted: bool = False, delay: float | None = None) -> None:
        """Start, watch and restart one worker until it is told to end, or has failed for good.

        Args:
            adopted: It has a process, of an earlier service.
            delay: It has had one, and is due to be started again after so many seconds.
        """
        if delay is None:
            delay = await (self._adopted(slot) if adopted else self._one_process(slot, again=False))
        while delay is not None:
            await asyncio.wait({slot.stop_wanted}, timeout=delay)
            if slot.stop_wanted.done():
                await self._ended(slot)
                return
            slot.set_state(WorkerEvent.START)
            delay = await self._one_process(slot, again=True)

    def begin_end(self, slot: Slot, reason: str) -> None:
        """Tell a worker to end: from here on what is asked of its name waits for a new process."""
        if slot.state not in (WorkerState.STOPPING, WorkerState.FAILED):
            slot.set_state(WorkerEvent.STOP)
            slot.stop_reason = reason
            slot.stop_wanted.set_result(None)
            self._reports.worker_ending(slot)

    async def end(self, slot: Slot, reason: str, *, persist: bool = False) -> Killed:
        """Tell a worker to end, and wait until it has; `persist`: the next service goes on with what persists of its connections."""
        slot.persists = persist and not slot.stop_reason  # not of one that is being killed
        if slot.state is WorkerState.FAILED:
            slot.set_state(WorkerEvent.STOP)
            await self._ended(slot)
            return Killed(0, 0)
        self.begin_end(slot, reason)
        if slot.task is not None:
            await asyncio.wait({slot.task})
        goodbye = slot.goodbye
        if goodbye is not None:
            return Killed(goodbye.discarded, goodbye.closed)
        return Killed(slot.stats.mailbox, slot.closed_hard)

    async def _adopted(self, slot: Slot) -> float | None:
        """Watch a process that an earlier service has started, to its end; return as `_take_leave`."""
        if slot.record.pid == 0:
            # Its service died before it had written down the pid: if it lives, its hello says who it is.
            await first_of((slot.ready,), ADOPT_S)
        who = slot.record
        process = worker_process.adopt(ProcessIdentity(who.pid, who.started_at_ticks, who.boot_id))
        if process is not None:
            slot.process_begun(process)
        return await self._take_leave(slot, await watch(slot, self._config, self._reports, adopted=True))

    async def _one_process(self, slot: Slot, *, again: bool) -> float | None:
        """Start a process when it is its turn, and watch it to its end; return as `_take_leave`."""
        turn = self._turns.take()
        try:
            await asyncio.wait({turn.come, slot.stop_wanted}, return_when=asyncio.FIRST_COMPLETED)
            if slot.stop_wanted.done():
                await self._ended(slot)
                return None
            try:
                await self._starter.start(slot)
            except (OSError, MooringError) as exc:
                return await self._not_started(slot, exc, again=again)
            # Until it is Running, but no longer than a start has: one that hangs does not hold up the others.
            slot.ready.add_done_callback(lambda _: turn.give_back())
            asyncio.get_running_loop().call_later(self._config.start_timeout, turn.give_back)
            return await self._take_leave(slot, await watch(slot, self._config, self._reports))
        finally:
            turn.give_back()

    async def _not_started(self, slot: Slot, failure: OSError | MooringError, *, again: bool) -> float | None:
        """Take that no process could be started; return the delay before the next attempt, None when there is none."""
        log.error("worker %s cannot be started: %s", slot.name, failure, extra=slot.tags)
        slot.reason = str(failure)
        self._roster.end_process(slot)
        unwritable = failure if isinstance(failure, JournalUnavailable) else None
        slot.fail_ready(unwritable or WorkerDied(slot.name, f"cannot be started: {failure}"))
        if unwritable and not again:
            self.begin_end(slot, "killed")  # nothing was started: the next use of the name may try anew
        if slot.state is WorkerState.STOPPING:
            await self._ended(slot)
            return None
        if unwritable:
            return self._after_death(slot, WRITE_RETRY_S)  # no fault of the worker's: it costs nothing of its budget
        slot.record = msgspec.structs.replace(slot.record, reason=slot.reason)
        delay = self._count_death(slot, str(failure)) if again else None
        self._after_death(slot, delay)
        await self._reports.save_incarnation(slot, ended=True, stands=True)
        return delay

    def _count_death(self, slot: Slot, reason: str) -> float | None:
        """Count a death; return the delay before the restart, or None when there is none. Its record says so, too."""
        now = time.monotonic()
        delay = slot.budget.died(now, random.random())
        slot.reason = reason
        slot.record = msgspec.structs.replace(
            slot.record,
            deaths=list(slot.budget.deaths),
            reason=reason,
            restart_at=None if delay is None else now + delay,
        )
        return delay

    async def _take_leave(self, slot: Slot, reason: str) -> float | None:
        """Report a death; return the delay before the restart, or None when there is none."""
        self._roster.end_adoption(slot)
        slot.resume_reading()
        try:
            # What the process wrote before it died is still in the socket.
            async with within(DRAIN_LINK_S):
                await slot.unlinked.wait()
        except TimeoutError:
            if slot.channel is not None:
                slot.channel.abort()
        process = slot.process
        ended = process.exited.result() if process is not None and process.exited.done() else Exit(None, None)
        record = worker_process.take_exit_record(slot.record.exit_record)
        text = reason or ended.text
        if record is not None and ended.signal is None and (process is None or not reason):
            text = record.reason  # we did not end it: what it wrote down itself is the truth, unless a signal was first
        slot.fail_requests(text)
        asked = slot.state is WorkerState.STOPPING
        delay = None if asked else self._count_death(slot, text)
        slot.process_gone()
        slot.closed_hard = await self._reports.worker_gone(
            slot, ended, slot.stop_reason if asked else text, restarting=delay is not None, asked=asked
        )
        self._roster.end_process(slot)
        if slot.state is WorkerState.STOPPING:  # not `asked`: it may have been told to end after it had died
            await self._ended(slot)
            return None
        slot.fail_ready(WorkerDied(slot.name, text))
        if delay is None:
            log.error("worker %s is Failed: %s, and the restart budget is used up", slot.name, text, extra=slot.tags)
        else:
            log.warning("worker %s has died: %s; restart in %.2f s", slot.name, text, delay, extra=slot.tags)
            slot.restarts += 1
        return self._after_death(slot, delay)

    def _after_death(self, slot: Slot, delay: float | None) -> float | None:
        """There is no process: another one after `delay`, or none until a person asks for it. Returns `delay`."""
        if delay is None:
            slot.set_state(WorkerEvent.GIVEN_UP)
            slot.gone.set()
        else:
            slot.set_state(WorkerEvent.DIED)
            slot.renew_ready()
        return delay

    async def _ended(self, slot: Slot) -> None:
        """`slot` has ended as told: there is no such worker any more."""
        if slot.stands:
            await self._reports.save_incarnation(slot, ended=True)
        if not slot.drains:
            await self._reports.worker_ended(slot)
        slot.set_state(WorkerEvent.ENDED)
        slot.fail_ready(WorkerDied(slot.name, "killed"))
        self._roster.remove(slot)
