"""A worker process, from its start to its end: probed, ended when it does not answer, told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

from mooring.link.messages import Probe, Stop
from mooring_service.config import SupervisorConfig
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_process import WorkerProcess
from mooring_service.processes.worker_state import WorkerState

log = logging.getLogger("mooring.supervisor")


async def watch(slot: Slot, config: SupervisorConfig) -> str:
    """Wait until the process of `slot` has ended; return why, as far as we had to do with it."""
    process = slot.process
    if process is None:
        return "it ended while the service was away"
    loop = asyncio.get_running_loop()
    started = loop.time()
    slot.last_report_at = started
    probe = 0
    dump_at: float | None = None
    exited = asyncio.create_task(process.exited.wait())
    stop = asyncio.create_task(slot.stop_wanted.wait())
    reason = ""
    try:
        while not exited.done() and not stop.done():
            await asyncio.wait({exited, stop}, timeout=config.probe_interval, return_when=asyncio.FIRST_COMPLETED)
            now = loop.time()
            if exited.done() or stop.done():
                break
            if slot.linked and slot.state is WorkerState.RUNNING:
                probe += 1
                slot.command(Probe(probe))
                silent = now - slot.last_report_at
                if silent < config.watchdog_timeout:
                    dump_at = None
                    continue
                reason = f"it did not answer for {silent:.0f} s"
            else:
                limit = config.start_timeout
                if now - max(slot.last_report_at, started) < limit:
                    continue
                reason = f"it did not connect for {limit:g} s"
            if dump_at is None:
                log.error("worker %s: %s; its stacks go to its log", slot.name, reason, extra=slot.tags)
                process.send_signal(signal.SIGUSR1)
                dump_at = now
                await asyncio.wait({exited}, timeout=0.5)
            await _signal_until(process, exited, config)
        if stop.done() and not exited.done():
            await _tell_to_stop(slot, process, exited, config)
    finally:
        for task in (exited, stop):
            task.cancel()
    return reason


async def _tell_to_stop(
    slot: Slot, process: WorkerProcess, exited: asyncio.Task[bool], config: SupervisorConfig
) -> None:
    if slot.linked:
        slot.command(Stop(slot.stop_reason, config.stop_timeout * 0.8))
        await asyncio.wait({exited}, timeout=config.stop_timeout)
    if not exited.done():
        await _signal_until(process, exited, config)


async def _signal_until(process: WorkerProcess, exited: asyncio.Task[bool], config: SupervisorConfig) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        await asyncio.wait({exited}, timeout=config.kill_timeout)
        if exited.done():
            return
