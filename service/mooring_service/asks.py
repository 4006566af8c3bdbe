"""What code in workers asks for: a call in another worker, the end of one. Done once the frame that asks is committed."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, assert_never

from mooring.background import Background
from mooring.errors import MooringError
from mooring.events import CallbackErrorEvent, Kind, now_us, worker_body
from mooring.link.messages import AskCall, AskKill, Call
from mooring_service.admission import Admission
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.supervisor import Supervisor
from mooring_service.processes.worker_state import WorkerState
from mooring_service.workers import Workers

log = logging.getLogger("mooring.service")


class Asks:
    """Hands on what code in workers asks for, in the order in which it was asked."""

    def __init__(
        self,
        admission: Admission,
        journal: Journal,
        roster: Roster,
        supervisor: Supervisor,
        workers: Workers,
        background: Background,
    ) -> None:
        self._admission = admission
        self._journal = journal
        self._roster = roster
        self._supervisor = supervisor
        self._workers = workers
        self._background = background
        self._waiting: Counter[str] = Counter()  # by worker: calls that are not yet given to it

    def do(self, slot: Slot, asks: list[AskCall | AskKill]) -> None:
        """Do what code in the worker of `slot` has asked for; the frame that asked is committed."""
        for ask in asks:
            match ask:
                case AskCall(worker, name, params):
                    self._call(slot, worker, name, params)
                case AskKill(worker):
                    target = self._roster.find(worker)
                    if target is not None:  # KILL WORKER ignores unknown names, as 4D does
                        # Told at once, so that a call that follows waits for the next process.
                        self._supervisor.begin_kill(target)
                        self._background.spawn(self._supervisor.kill(worker))
                case _:
                    assert_never(ask)

    def _call(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        target = self._roster.find(worker)
        reference = self._admission.config.functions.get(name)
        running = target is not None and target.state is WorkerState.RUNNING and target.linked
        if target is not None and running and reference is not None and not self._waiting[worker]:
            target.command(Call(0, name, reference, params))
        else:
            # Tasks resume in the order in which they were made; nothing may overtake them meanwhile.
            self._waiting[worker] += 1
            self._background.spawn(self._call_later(slot, worker, name, params))

    async def _call_later(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        try:
            await self._workers.call_later(worker, name, params)
        except MooringError as exc:
            log.error("worker %s asked for %s in worker %s: %s", slot.name, name, worker, exc, extra=slot.tags)
            event = CallbackErrorEvent(callback=name, exception=type(exc).__name__, message=str(exc), traceback="")
            body = worker_body(Kind.callbackError, slot.name, now_us(), event)
            self._journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.callbackError,)), bodies=body)
            )
        finally:
            self._waiting[worker] -= 1
            if not self._waiting[worker]:
                del self._waiting[worker]
