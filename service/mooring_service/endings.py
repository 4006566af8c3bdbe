"""The ends that the service writes, for connections whose worker cannot tell them any more: one for each, whoever asks first."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mooring.errors import ErrCode, ErrorEntry
from mooring.events import ErrorEvent, Kind, TerminateEvent, body_prefix, connection_body, encode_event, now_us
from mooring.link.record import STATUS_CLOSED, STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate, Terminated
from mooring.wire.frames import ABNORMAL
from mooring_service.directory import Entry
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal


class Endings:
    """Writes ends, and owns which of them are on their way: what is live in the directory may have one already."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._on_their_way: set[int] = set()

    async def write(
        self, entries: Iterable[Entry], reason: str, err_code: ErrCode, *, then: Append | None = None
    ) -> Append:
        """Record the ends of `entries`, but of those that have ended, or whose end is on its way; wait until they are committed.

        Args:
            entries: Connections of one worker.
            then: Is recorded behind them, in the same transaction; its events belong to the same worker.

        Returns:
            The ends alone: an `updates` for each connection that has ended by this.
        """
        due = [entry for entry in entries if not entry.update.ended and entry.created.id not in self._on_their_way]
        append = _ends(due, reason, err_code)
        if due or then is not None:
            ids = {entry.created.id for entry in due}
            self._on_their_way |= ids
            await self._journal.append_waiting(append if then is None else _joined(append, then))
            # Only now: whoever was cancelled above has left a queue in which they still are.
            self._on_their_way -= ids
        return append


def _joined(first: Append, then: Append) -> Append:
    """Return `then` with the events and updates of `first` before its own."""
    return msgspec.structs.replace(
        then,
        connections=first.connections + then.connections,
        kinds=first.kinds + then.kinds,
        bodies=first.bodies + b"\n" + then.bodies if first.bodies else then.bodies,
        updates=[*first.updates, *then.updates],
    )


def _ends(entries: list[Entry], reason: str, err_code: ErrCode) -> Append:
    """Return what ends `entries`: the onTerminates (and onErrors of dials) that their worker could not report."""
    ids: list[bytes] = []
    kinds: list[int] = []
    bodies: list[bytes] = []
    updates: list[ConnectionUpdate] = []
    time_us = now_us()
    for entry in entries:
        created, update = entry.created, entry.update
        seq = update.seq
        errors = update.errors

        def add(kind: Kind, event: msgspec.Struct, seq: int, created: ConnectionCreated = created) -> None:
            ids.append(created.id.to_bytes(8, "little", signed=True))
            kinds.append(kind)
            prefix = body_prefix(kind, created.id, created.worker)
            bodies.append(connection_body(prefix, seq, time_us, encode_event(event)))

        if update.status == STATUS_CONNECTING:
            errors = [ErrorEntry(err_code, reason)]
            seq += 1
            add(Kind.onError, ErrorEvent(errors=errors), seq)
        # Closed already, but its onTerminate was still in the worker's mailbox: the end is known.
        end = update.terminate or Terminated(ABNORMAL, reason, False)
        seq += 1
        add(Kind.onTerminate, TerminateEvent(code=end.code, reason=end.reason, was_clean=end.was_clean), seq)
        updates.append(
            msgspec.structs.replace(
                update,
                status=STATUS_CLOSED,
                seq=seq,
                errors=errors,
                terminate=end,
                closed_at_us=update.closed_at_us or time_us,
                ended=True,
            )
        )
    worker = entries[0].created.worker if entries else ""
    return Append(
        worker=worker,
        connections=b"".join(ids),
        kinds=bytes(kinds),
        bodies=b"\n".join(bodies),
        updates=updates,
    )
