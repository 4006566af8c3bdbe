"""What is recorded for connections whose worker cannot tell their end any more. Pure, but for the time of day."""

from __future__ import annotations

import msgspec

from mooring.errors import ErrCode, ErrorEntry
from mooring.events import ErrorEvent, Kind, TerminateEvent, body_prefix, connection_body, encode_event, now_us
from mooring.link.messages import STATUS_CLOSED, STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate, Terminated
from mooring.wire.frames import ABNORMAL
from mooring_service.directory import Entry
from mooring_service.journal.batch import Append


def ends(entries: list[Entry], reason: str, err_code: ErrCode) -> Append:
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
