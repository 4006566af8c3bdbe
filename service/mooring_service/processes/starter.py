"""Starts the process of a worker: written down before it exists, and again once it has a pid."""

from __future__ import annotations

import asyncio
import secrets
import signal
from pathlib import Path

import msgspec

from mooring.errors import MooringError
from mooring.events import now_us
from mooring.link.messages import Reconfigure, Stats, WorkerSettings
from mooring.process import identity
from mooring_service.processes import worker_process
from mooring_service.processes.forker import Forker
from mooring_service.processes.reports import Reports
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import IncarnationRecord, Slot
from mooring_service.processes.worker_process import WorkerProcess


class Starter:
    """Starts processes for slots.

    Args:
        state_dir: Holds the workers' logs and exit records.
        forker: Of which workers are copies; None: each is started by exec.
        socket_path: Of the link.

    Attributes:
        settings: What every worker is started with; name, identity and files are filled in here.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        state_dir: Path,
        socket_path: Path,
        reports: Reports,
        roster: Roster,
        forker: Forker | None,
    ) -> None:
        self.settings = settings
        self._state_dir = state_dir
        self._socket_path = socket_path
        self._reports = reports
        self._roster = roster
        self._forker = forker

    @property
    def changeable(self) -> Reconfigure:
        """What of the settings may change under a running worker, as the command that tells it."""
        settings = self.settings
        return Reconfigure(
            settings.egress_allow,
            settings.egress_deny,
            settings.allow_insecure_tls,
            settings.max_connections,
            settings.redial,
            settings.dial,
            settings.max_pending_requests,
            settings.recipes,
            settings.functions,
            settings.in_memory,
        )

    async def start(self, slot: Slot) -> None:
        """Give `slot` a new process.

        Raises:
            OSError, MooringError: If there is none: why.
        """
        self._roster.begin_process(slot, secrets.token_hex(8))
        slot.stored = slot.unstored_bytes = 0
        slot.draining = False
        slot.goodbye = None
        slot.link_faults = 0
        slot.stats = Stats()
        slot.record = IncarnationRecord(
            secret=secrets.token_hex(32),
            started_at_us=now_us(),
            restarts=slot.restarts,
            exit_record=str(self._state_dir / "exits" / f"{slot.incarnation}.json"),
            boot_id=identity.boot_id(),
            deaths=list(slot.budget.deaths),
            reason=slot.reason,
        )
        # Before the process exists: a service that dies right here leaves a worker that its successor knows.
        await self._reports.save_incarnation(slot)
        try:
            process = await self._process_of(self._settings_of(slot))
            slot.process_begun(process)
        except OSError:
            await self._reports.save_incarnation(slot, ended=True)
            raise
        who = process.identity
        slot.record = msgspec.structs.replace(
            slot.record, pid=who.pid, started_at_ticks=who.started_at_ticks, boot_id=who.boot_id
        )
        try:
            await self._reports.save_incarnation(slot)
        except MooringError:
            process.send_signal(signal.SIGKILL)  # it holds nothing yet, and no successor of ours could find it
            await asyncio.wait({process.exited})
            slot.process_gone()
            await self._reports.save_incarnation(slot, ended=True)
            raise

    async def _process_of(self, settings: WorkerSettings) -> WorkerProcess:
        forked = None if self._forker is None else await self._forker.start(settings)
        return forked or worker_process.start(settings)

    def _settings_of(self, slot: Slot) -> WorkerSettings:
        return msgspec.structs.replace(
            self.settings,
            worker=slot.name,
            incarnation=slot.incarnation,
            secret=slot.record.secret,
            socket_path=str(self._socket_path),
            log_file=str(self._state_dir / "logs" / f"{slot.name}.log"),
            exit_record=slot.record.exit_record,
            restarts=slot.restarts,
        )
