"""Kept connections whose worker's process is gone: what they were asked for, that they are down, and that they are opened again.

The specs (create requests, with their secrets) are in memory alone; a restarted service learns them from the workers' hellos. Without its
spec a connection ends with the process, as one that is not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from mooring.deadline import first_of
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import Kind, now_us, rfc3339
from mooring.kept_events import Cause, DisconnectEvent, QueuedRecord
from mooring.link.held import HeldConnection
from mooring.link.messages import Open
from mooring.link.packed import pack, unpack
from mooring.link.record import (
    STATUS_CLOSED,
    STATUS_CLOSING,
    STATUS_CONNECTED,
    STATUS_RECONNECTING,
    ConnectionUpdate,
    Down,
    KeptUpdate,
)
from mooring.options import ConnectionRequest
from mooring.wire.frames import ABNORMAL
from mooring_service.admission import Admission
from mooring_service.columns import Columns
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal
from mooring_service.processes.slot import Slot

BATCH = 500  # so many are written down, and then opened, at a time
BLOCKED = "blocked"

log = logging.getLogger("mooring.service")


class Reopenings:
    """The specs of kept connections, and those that wait for a process of their worker.

    Attributes:
        handed: What `waiting_specs` of the program before us has returned, for `recall`.
        keeps_back: Says of a worker whether what persists of it, and waits, cannot be opened here now: it goes on waiting then. Where it
            is never so, what cannot be made any more ends.
    """

    def __init__(self, admission: Admission, journal: Journal, directory: Directory, endings: Endings) -> None:
        self._admission = admission
        self._journal = journal
        self._directory = directory
        self._endings = endings
        self._specs: dict[int, bytes] = {}
        self._told: dict[int, str] = {}
        self.handed = b""
        self.keeps_back: Callable[[str], bool] = lambda worker: False

    def remember(self, connection: int, spec: ConnectionRequest) -> None:
        """Keep what `connection` was asked for, until it has ended, or turns out to be neither kept nor named."""
        # Its record, which there may not be yet, is made of this.
        url = self._directory.url(connection)
        self._specs[connection] = pack(spec, spec.url if url is None else url)

    def spec(self, connection: int) -> ConnectionRequest | None:
        """Return what `connection` was asked for, as far as that is known."""
        packed = self._specs.get(connection)
        return None if packed is None else unpack(packed, self._directory.url(connection) or "")

    def forget(self, connection: int) -> None:
        """`connection` has ended, is to end, or is not kept. Idempotent."""
        self._specs.pop(connection, None)
        self._told.pop(connection, None)

    def waiting_specs(self) -> bytes:
        """Return the specs of what waits for a process: no hello will tell them to the next program. There are secrets in them."""
        waiting = {entry.created.id for entry in self._directory.living_entries() if self.waits(entry)}
        return msgspec.msgpack.encode({one: spec for one, spec in self._specs.items() if one in waiting})

    def recall(self) -> None:
        """Learn the specs of what persists from the journal, and what was handed over."""
        handed = msgspec.msgpack.decode(self.handed, type=dict[int, bytes]) if self.handed else {}
        self._specs |= {one: spec for one, spec in handed.items() if self._directory.url(one) is not None}
        for entry in self._directory.living_entries():
            if entry.created.spec is not None and not entry.update.ended:
                self.remember(entry.created.id, unpack(entry.created.spec, entry.created.url))

    def learn(self, held: HeldConnection) -> None:
        """Learn the spec of what a process holds."""
        if held.spec is not None:
            self.remember(held.created.id, held.spec)

    def stays(self, entry: Entry) -> bool:
        """Say whether a connection goes on without its process: one that has never been ready only where it goes on trying."""
        created, update = entry.created, entry.update
        if created.kept is None or created.id not in self._specs or update.ended:
            return False
        if update.status in (STATUS_CLOSING, STATUS_CLOSED) or self._endings.coming(created.id):
            return False
        return created.kept.reconnect.first == "retry" or bool(update.kept and update.kept.socket)

    def due(self, worker: str) -> list[Entry]:
        """Return what of a worker a process of it is to hold, whether one does or not."""
        live = self._directory.live_of(worker)
        keeps_back = self.keeps_back(worker)
        return [
            entry
            for entry in live
            if self.stays(entry) and not (keeps_back and entry.created.spec is not None and self.waits(entry))
        ]

    async def open_again(self, slot: Slot, connections: Iterable[int] = ()) -> None:
        """Have the process of `slot` open what an earlier one has held; the pace of the dials is the worker's.

        Args:
            connections: Those that were told to this process and have not reached it.
        """
        if not self._admission.may_open:
            return  # they wait until it may
        incarnation, again = slot.incarnation, set(connections)
        due = [entry for entry in self.due(slot.name) if entry.incarnation != incarnation or entry.created.id in again]
        handlers = self._admission.config.handlers
        unknown = [
            entry for entry in due if entry.created.handler is not None and entry.created.handler not in handlers
        ]
        if unknown:
            reason = "its handler is not in [handlers] any more"
            await self._endings.write(unknown, reason, ErrCode.HANDLER_FAILED, error=True)
        for begin in range(0, len(due), BATCH):
            entries = [entry for entry in due[begin : begin + BATCH] if self.stays(entry)]
            # The intent: should this process die before it has heard of them, they are its all the same.
            intent = Append(worker=slot.name, incarnation=incarnation, created=[entry.created for entry in entries])
            await self._journal.append_waiting(intent)
            if not slot.linked or slot.incarnation != incarnation:
                return  # it has died, or its next hello does not know of them: whoever sees that has them opened again
            for entry in entries:
                if self.stays(entry):  # nobody has ended it meanwhile
                    self._tell(slot, entry)

    def _tell(self, slot: Slot, entry: Entry) -> None:
        connection, spec = entry.created.id, unpack(self._specs[entry.created.id], entry.created.url)
        reference = None if spec.handler is None else self._admission.config.handlers.get(spec.handler.name)
        self._told[connection] = slot.incarnation
        slot.open(
            Open(0, connection, spec, reference, entry.created.created_at_us, entry.update, entry.created.declared)
        )

    def waits(self, entry: Entry) -> bool:
        """Say whether a connection waits for a process of its worker."""
        kept = entry.update.kept
        return kept is not None and kept.down is not None and kept.down.phase == BLOCKED and self.stays(entry)

    def told(self, connection: int) -> str:
        """Return the incarnation of the process that was told to open `connection` again; empty: none was."""
        return self._told.get(connection, "")

    async def until_ended_or_waiting(self, connection: int, timeout_s: float) -> bool:
        """Wait, so long at most, until `connection` has ended, or waits for a process; False: it waits for one."""
        entry = self._directory.entry(connection)
        await first_of((self._directory.until(connection, lambda _: self.waits(entry)),), timeout_s)
        return not self.waits(entry)

    async def end_waiting(self, worker: str, reason: str, err_code: ErrCode, *, persisted: bool = True) -> None:
        """End those that wait for a process of `worker`: there will be none.

        Args:
            persisted: Those that persist, too; False: the next service goes on with them.
        """
        waiting = [
            entry
            for entry in self._directory.live_of(worker)
            if self.waits(entry) and (persisted or not entry.created.persists)
        ]
        for entry in waiting:
            self.forget(entry.created.id)
        await self._endings.write(waiting, reason, err_code)


def losses(entries: list[Entry], reason: str, err_code: ErrCode, cause: Cause) -> Append:
    """Return what is recorded of kept connections whose process is gone: they are down, and those that were ready lose a socket."""
    time_us = now_us()
    columns = Columns(entries[0].created.worker if entries else "", time_us)
    errors = [ErrorEntry(err_code, reason)]
    for entry in entries:
        created, update = entry.created, entry.update
        kept = update.kept or KeptUpdate()
        since_us = time_us if kept.down is None else kept.down.since_us
        if update.status == STATUS_CONNECTED:
            since_us = time_us
            columns.event(created, Kind.onDisconnect, update.seq + 1, _lost(update, kept, reason, errors, cause))
            update = msgspec.structs.replace(update, seq=update.seq + 1)
        update = columns.unsent(created, update)
        down = Down(since_us, BLOCKED, 0, None, ABNORMAL, reason, errors)
        columns.update(
            msgspec.structs.replace(
                update,
                status=STATUS_RECONNECTING if kept.socket else update.status,
                kept=msgspec.structs.replace(update.kept or KeptUpdate(), down=down),
            )
        )
    return columns.append()


def _lost(
    update: ConnectionUpdate, kept: KeptUpdate, reason: str, errors: list[ErrorEntry], cause: Cause
) -> DisconnectEvent:
    message_at_us, heard_at_us = update.last_message_at_us, kept.last_heard_at_us
    return DisconnectEvent(
        socket=kept.socket,
        code=ABNORMAL,
        reason=reason,
        was_clean=False,
        cause=cause,
        errors=errors,
        last_message_at=None if message_at_us is None else rfc3339(message_at_us),
        last_heard_at=None if heard_at_us is None else rfc3339(heard_at_us),
        next_attempt_at=None,
        queued=QueuedRecord(kept.queued_messages, kept.queued_bytes),
    )
