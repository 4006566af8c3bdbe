"""The ends that the service writes, for connections whose worker cannot tell them any more: one for each, whoever asks first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from mooring.errors import ErrCode, ErrorEntry
from mooring.events import ErrorEvent, Kind, TerminateEvent, now_us
from mooring.link.record import STATUS_CLOSED, STATUS_CONNECTING, Terminated
from mooring.wire.frames import ABNORMAL
from mooring_service.columns import Columns, joined
from mooring_service.directory import Entry
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal

_WHYS = {ErrCode.SERVICE_STOPPED: "service", ErrCode.HANDLER_FAILED: "handler"}


class Endings:
    """Writes ends, and owns which of them are on their way: what is live in the directory may have one already.

    Attributes:
        kept: How many ends of kept connections it has written, by worker and why; the others are counted where they are decided.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._on_their_way: set[int] = set()
        self.kept: Counter[tuple[str, str]] = Counter()

    def coming(self, connection: int) -> bool:
        """Say whether the end of `connection` is on its way."""
        return connection in self._on_their_way

    async def write(
        self,
        entries: Iterable[Entry],
        reason: str,
        err_code: ErrCode,
        *,
        then: Append | None = None,
        error: bool = False,
        why: str | None = None,
    ) -> Append:
        """Record the ends of `entries`, but of those that have ended, or whose end is on its way; wait until they are committed.

        Args:
            entries: Connections of one worker.
            then: Is recorded behind them, in the same transaction; its events belong to the same worker.
            error: Each gets an ``onError``, and not only those that were never open.
            why: For the metrics, where `err_code` does not say it: ``asked``.

        Returns:
            The ends alone: an `updates` for each connection that has ended by this.
        """
        due = [entry for entry in entries if not entry.update.ended and entry.created.id not in self._on_their_way]
        append = _ends(due, reason, err_code, error=error)
        if due or then is not None:
            ids = {entry.created.id for entry in due}
            self._on_their_way |= ids
            for entry in due:
                if entry.created.kept is not None:
                    self.kept[entry.created.worker, why or _WHYS.get(err_code, "worker")] += 1
            await self._journal.append_waiting(append if then is None else joined(append, then))
            # Only now: whoever was cancelled above has left a queue in which they still are.
            self._on_their_way -= ids
        return append


def _ends(entries: list[Entry], reason: str, err_code: ErrCode, *, error: bool) -> Append:
    """Return what ends `entries`: the onTerminates (and onErrors of dials) that their worker could not report."""
    time_us = now_us()
    columns = Columns(entries[0].created.worker if entries else "", time_us)
    for entry in entries:
        created = entry.created
        update = columns.unsent(created, entry.update)
        seq = update.seq
        errors = update.errors
        if update.status == STATUS_CONNECTING or error:
            errors = [ErrorEntry(err_code, reason)]
            seq += 1
            columns.event(created, Kind.onError, seq, ErrorEvent(errors=errors))
        # Closed already, but its onTerminate was still in the worker's mailbox: the end is known.
        end = update.terminate or Terminated(ABNORMAL, reason, False)
        seq += 1
        event = TerminateEvent(code=end.code, reason=end.reason, was_clean=end.was_clean)
        columns.event(created, Kind.onTerminate, seq, event)
        columns.update(
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
    return columns.append()
