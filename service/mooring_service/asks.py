"""What code in workers asks for: a call in another worker, the end of one. Each is in the journal until it is done.

A call is done once its worker has taken it, a kill once the worker has ended; both become durable with that fact. So what is asked
for survives the service: the next one goes on with what is left, in the same order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import assert_never

import msgspec

from mooring.background import Background
from mooring.errors import JournalUnavailable, MooringError, Unavailable, UnknownWorker, WorkerBusy
from mooring.events import CallbackErrorEvent, Kind, now_us, worker_body
from mooring.link.messages import AskCall, AskKill, Call
from mooring_service.admission import Admission
from mooring_service.cluster_errors import Elsewhere, EngineDown
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal, StoredAsk
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.supervisor import Supervisor
from mooring_service.processes.worker_state import WorkerState

RETRY_S = 1.0  # a worker that cannot be started because the journal cannot be written is tried again so often

log = logging.getLogger("mooring.service")
_decode = msgspec.msgpack.Decoder(AskCall | AskKill).decode


class Waiting(msgspec.Struct):
    """The calls that wait for one worker, oldest first: their numbers only grow."""

    asks: deque[StoredAsk] = msgspec.field(default_factory=deque)
    size: int = 0

    def add(self, ask: StoredAsk) -> None:
        """Have one more wait."""
        self.asks.append(ask)
        self.size += len(ask.ask)
        if len(self.asks) > 1 and self.asks[-2].number > ask.number:  # given back by a process that died
            self.asks = deque(sorted(self.asks, key=lambda waits: waits.number))

    def take(self) -> StoredAsk:
        """Take the oldest."""
        ask = self.asks.popleft()
        self.size -= len(ask.ask)
        return ask


class Asks:
    """Hands on what code in workers asks for, in the order in which it was asked."""

    def __init__(self, admission: Admission, journal: Journal, roster: Roster, supervisor: Supervisor) -> None:
        self._admission = admission
        self._journal = journal
        self._roster = roster
        self._supervisor = supervisor
        self._background = Background(log)
        self._waiting: dict[str, Waiting] = {}  # by worker; each has a task that serves it
        self._untold: dict[int, StoredAsk] = {}  # in a cluster: who is to do them is said by their place in the log
        self._kept = False

    def do(self, asks: list[StoredAsk], *, taken: bool = False) -> None:
        """Do what is in the journal, or was given back by a process that has died.

        In a cluster what is asked of a worker that is not here waits for its place in the log, unless it was `taken` from there.
        """
        if self._kept:
            return
        placing = self._admission.placing
        for ask in asks:
            if taken or placing is None or placing.holds(_decode(ask.ask).worker):
                self._do(ask)
            else:
                self._untold[ask.number] = ask

    def told(self, number: int, *, here: bool) -> None:
        """The log has come to something that was asked for here: another node does it, or (`here`) this one."""
        ask = self._untold.pop(number, None)
        if ask is None or self._kept:
            return
        if here:
            self._do(ask)
        else:
            self._journal.append(Append(asks_done=[number]))

    def take(self, worker: str, ask: bytes) -> None:
        """Do what a worker of another node has asked for, of one that is here: once the journal has it."""
        self._journal.append(Append(worker=worker, asks=[ask], taken=True))

    def _do(self, ask: StoredAsk) -> None:
        wanted = _decode(ask.ask)
        match wanted:
            case AskCall():
                self._call(ask, wanted)
            case AskKill(worker):
                self._kill(ask, worker)
            case _:
                assert_never(wanted)

    def discard(self, worker: str) -> None:
        """A worker is told to end: the calls that wait for it are refused, as what waits in its mailbox is discarded."""
        waiting = self._waiting.get(worker)
        if waiting is not None:
            self._refuse(waiting, WorkerBusy(worker, WorkerState.STOPPING.value))

    async def close(self, *, keep: bool = False) -> None:
        """End. With `keep` all that is not done is left to the next service, untold."""
        self._kept = keep
        await self._background.close()

    def _kill(self, ask: StoredAsk, worker: str) -> None:
        target = self._roster.find(worker)
        if target is None:  # KILL WORKER ignores unknown names, as 4D does
            self._journal.append(Append(asks_done=[ask.number]))
            return
        # Told at once, so that a call that follows waits for the next process.
        target.ended_for.append(ask.number)
        self._supervisor.begin_kill(target)
        self._background.spawn(self._until_killed(ask, worker))

    async def _until_killed(self, ask: StoredAsk, worker: str) -> None:
        try:
            await self._supervisor.kill(worker)
        except UnknownWorker:
            pass
        if self._admission.placing is not None and self._roster.find(worker) is None:
            await asyncio.shield(self._admission.placing.release(worker))
        self._journal.append(Append(asks_done=[ask.number]))  # where there was no process whose end would have said so

    def _call(self, ask: StoredAsk, wanted: AskCall) -> None:
        waiting = self._waiting.get(wanted.worker)
        if waiting is None:
            target = self._roster.find(wanted.worker)
            if target is not None and target.takes_calls:
                self._hand_over(target, ask)
                return
            waiting = self._waiting[wanted.worker] = Waiting()
            self._background.spawn(self._serve(wanted.worker, waiting))
        bounds = self._admission.config.worker
        if len(waiting.asks) >= bounds.mailbox_items or waiting.size >= bounds.mailbox_bytes:
            self._failed(ask, Unavailable(f"too many calls wait for worker {wanted.worker!r}"))
        else:
            waiting.add(ask)

    async def _serve(self, worker: str, waiting: Waiting) -> None:
        try:
            while waiting.asks:
                try:
                    target = await self._ready(worker)
                except (JournalUnavailable, EngineDown):
                    await asyncio.sleep(RETRY_S)
                except Elsewhere:
                    self._ask_again(waiting)
                except WorkerBusy as exc:
                    if exc.status == WorkerState.FAILED.value:
                        self._refuse(waiting, exc)
                    # Else it is being killed: what came behind that waits for the next process.
                except MooringError as exc:
                    self._refuse(waiting, exc)
                else:
                    await target.until_room()
                    while waiting.asks and target.takes_calls:
                        self._hand_over(target, waiting.take())
        finally:
            del self._waiting[worker]

    async def _ready(self, worker: str) -> Slot:
        self._admission.check()
        # 4D: a call to a name that is being killed starts a new process once the old one has ended.
        await self._supervisor.wait_gone(worker)
        await self._supervisor.wait_adopted(worker)
        async with self._admission.held(worker, self._roster.check_room):
            return await self._supervisor.ensure(worker)

    def _ask_again(self, waiting: Waiting) -> None:
        """Another node has got the worker meanwhile: behind that in the log, it does what was asked for."""
        while waiting.asks:
            ask = waiting.take()
            self._journal.append(Append(worker=ask.worker, asks=[ask.ask], asks_done=[ask.number]))

    def _hand_over(self, target: Slot, ask: StoredAsk) -> None:
        wanted = _decode(ask.ask)
        assert isinstance(wanted, AskCall), "kills are done at once"
        try:
            reference = self._admission.function(wanted.name)
        except MooringError as exc:
            self._failed(ask, exc)
            return
        if not target.hand_over(ask, Call(0, wanted.name, reference, wanted.params, ask=ask.number)):
            self._journal.append(Append(asks_done=[ask.number]))

    def _refuse(self, waiting: Waiting, why: MooringError) -> None:
        while waiting.asks:
            self._failed(waiting.take(), why)

    def _failed(self, ask: StoredAsk, why: MooringError) -> None:
        wanted = _decode(ask.ask)
        assert isinstance(wanted, AskCall), "kills are done at once"
        name = wanted.name
        log.error("worker %s asked for %s in worker %s: %s", ask.worker, name, wanted.worker, why)
        event = CallbackErrorEvent(callback=name, exception=type(why).__name__, message=str(why), traceback="")
        body = worker_body(Kind.callbackError, ask.worker, now_us(), event)
        self._journal.append(
            Append(
                worker=ask.worker,
                connections=bytes(8),
                kinds=bytes((Kind.callbackError,)),
                bodies=body,
                asks_done=[ask.number],
            )
        )
