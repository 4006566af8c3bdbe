"""A worker process, from its start to its end: asked, ended when `watchdog` says so, told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

from mooring.deadline import first_of
from mooring.link.messages import Probe, Stop
from mooring_service.config import SupervisorConfig
from mooring_service.processes.reports import Reports
from mooring_service.processes.slot import Slot
from mooring_service.processes.watchdog import Ask, End, Watchdog
from mooring_service.processes.worker_process import WorkerProcess
from mooring_service.processes.worker_state import WorkerState

ADOPT_S = 2.0  # where something must wait for workers that are being adopted: they dial at least twice a second
DUMP_S = 0.5  # so long a process has to write its stacks down, before it is ended
LINK_FAULTS = 3

log = logging.getLogger("mooring.supervisor")


async def watch(slot: Slot, config: SupervisorConfig, reports: Reports, *, adopted: bool = False) -> str:
    """Wait until the process of `slot` has ended; return why, as far as we had to do with it.

    One that is `adopted` holds what happened while nobody was there: it may hand that over before it is told to stop.
    """
    process = slot.process
    if process is None:
        return "it ended while the service was away"
    watchdog = Watchdog(
        time.monotonic(),
        interval_s=config.probe_interval,
        connect_s=config.start_timeout,
        answer_s=config.watchdog_timeout,
    )
    probe = 0
    reason = ""
    ends: set[asyncio.Future[Any]] = {process.exited, slot.stop_wanted}
    while True:
        await asyncio.wait(ends, timeout=config.probe_interval, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # one pass of the loop: a judge first reads what has come
        if process.exited.done():
            return reason
        if slot.stop_wanted.done():
            if adopted:
                there: set[asyncio.Future[Any]] = {slot.ready, process.exited}
                await first_of(there, ADOPT_S)
            await _tell_to_stop(slot, process, config)
            return reason
        linked = slot.linked and slot.state is WorkerState.RUNNING
        decision = watchdog.look(
            time.monotonic(),
            heard_at=slot.last_report_at,
            linked=linked,
            reading=slot.reading,
            cpu_s=0.0 if linked else process.cpu_s(),
        )
        if slot.link_faults >= LINK_FAULTS:
            decision = End("what it says on the link cannot be understood")  # it would say it again for ever
        match decision:
            case Ask():
                probe += 1
                slot.command(Probe(probe, reports.until(slot)))
            case End():
                if not reason:
                    log.error("worker %s: %s; its stacks go to its log", slot.name, decision.reason, extra=slot.tags)
                    process.send_signal(signal.SIGUSR1)
                    await first_of((process.exited,), DUMP_S)
                reason = decision.reason
                await _signal_until(process, config)


async def _tell_to_stop(slot: Slot, process: WorkerProcess, config: SupervisorConfig) -> None:
    if slot.linked:
        slot.command(Stop(slot.stop_reason, config.stop_timeout * 0.8, slot.drains, slot.persists))
        await first_of((process.exited,), config.stop_timeout)
    await _signal_until(process, config)


async def _signal_until(process: WorkerProcess, config: SupervisorConfig) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not process.exited.done():
            process.send_signal(number)
            await first_of((process.exited,), config.kill_timeout)
