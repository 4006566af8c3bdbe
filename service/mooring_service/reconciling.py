"""Declared connections: what ``[connections]`` asks for, and what there is, become the same; at the start, and whenever it is read again.

What is new is opened, what is gone is terminated (1001), what has changed is changed in its life where that is possible, else replaced;
what is the same is not touched.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mooring.changes import CHANGEABLE, Changes, changes_to
from mooring.deadline import first_of
from mooring.errors import MooringError
from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING
from mooring.options import OPTIONS, ConnectionRequest
from mooring_service.admission import Admission
from mooring_service.connections import Connections
from mooring_service.declarations import all_declared
from mooring_service.directory import Directory, Entry
from mooring_service.naming import difference
from mooring_service.opening import Openings
from mooring_service.reopening import Reopenings
from mooring_service.wanted import Wanted

GONE_CODE = 1001  # "going away" (RFC 6455 section 7.4.1)
END_MARGIN_S = 2.0

log = logging.getLogger("mooring.service")


class Reconciling:
    """Keeps what is declared."""

    def __init__(
        self,
        admission: Admission,
        directory: Directory,
        reopenings: Reopenings,
        openings: Openings,
        connections: Connections,
        wanted: Wanted,
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._reopenings = reopenings
        self._openings = openings
        self._connections = connections
        self._wanted = wanted
        self._turn = asyncio.Lock()

    def recall(self) -> None:
        """Learn what those that there are ask for: nothing of it is in the journal. A process that holds one says it better."""
        specs = all_declared(self._admission.config)
        for entry in self._living():
            spec = specs.get(entry.created.name or "")
            if spec is not None and _is_the_same_to_its_process(entry, spec):
                self._reopenings.remember(entry.created.id, spec)

    def _living(self) -> list[Entry]:
        return [entry for entry in self._directory.living_entries() if entry.created.declared]

    async def reconcile(self) -> None:
        """Make it so; one after the other. What cannot be done now is told in the log, and tried again the next time."""
        async with self._turn:
            specs = all_declared(self._admission.config)
            for entry in self._living():
                if entry.created.name not in specs:
                    await self._attempt(entry.created.name or "", self._end(entry, "it is not declared any more"))
            for name, spec in specs.items():
                await self._attempt(name, self._have(name, spec))

    async def _attempt(self, name: str, work: Any) -> None:
        try:
            await work
        except MooringError as exc:
            log.error("connections.%s: %s; it is tried again when the configuration is read again", name, exc)

    async def _have(self, name: str, spec: ConnectionRequest) -> None:
        entry = self._directory.living(name)
        if entry is not None and entry.update.status in (STATUS_CLOSING, STATUS_CLOSED):
            await self._ended(entry)
            entry = self._directory.living(name)
        if entry is None:
            await self._open(spec)
        elif not entry.created.declared:
            log.warning(
                "connections.%s is not opened: a request has opened connection %d of that name; it is when that has ended and the"
                " configuration is read again", name, entry.created.id,
            )  # fmt: skip
        else:
            await self._keep(entry, spec)

    async def _open(self, spec: ConnectionRequest) -> None:
        reference = None if spec.handler is None else self._admission.handler(spec.handler.name)
        self._admission.check()
        await self._openings.open(spec, reference, None, declared=True)

    async def _keep(self, entry: Entry, spec: ConnectionRequest) -> None:
        had = self._reopenings.spec(entry.created.id)
        if had is not None:
            keys = {place.split("/")[1] for place in difference(had, spec, limit=0)}
            if not keys:
                return
            if keys <= {OPTIONS[name].key for name in CHANGEABLE if name in OPTIONS}:
                changes: Changes = changes_to(spec, keys)
                await self._wanted.change_entry(entry, changes)
                return
        await self._end(entry, "it is declared otherwise")
        await self._open(spec)

    async def _end(self, entry: Entry, reason: str) -> None:
        await self._connections.end(entry, GONE_CODE, reason)
        await self._ended(entry)

    async def _ended(self, entry: Entry) -> None:
        ended = self._directory.until(entry.created.id, lambda update: update.ended)
        await first_of((ended,), entry.created.close_timeout_s + END_MARGIN_S)


def _is_the_same_to_its_process(entry: Entry, spec: ConnectionRequest) -> bool:
    """Say whether what holds `entry` could be opened again as `spec` says: else it ends, and another one is opened."""
    created = entry.created
    handler = None if spec.handler is None else spec.handler.name
    return (created.worker, created.handler) == (spec.worker, handler)
