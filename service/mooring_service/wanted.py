"""What is wanted of connections, in the words of who wants it: one of this name is there, and is as it was asked for."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from mooring.checks import check_connection_name
from mooring.errors import Invalid, InvalidRequest, WrongState
from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING
from mooring.name_errors import NameTaken
from mooring.options import ConnectionRequest, check_request
from mooring_service.admission import Admission
from mooring_service.connections import ANSWER_MARGIN_S, Connections
from mooring_service.directory import Directory
from mooring_service.naming import Names, difference
from mooring_service.opening import Opening
from mooring_service.records import ConnectionRecord
from mooring_service.reopening import Reopenings


class Wanted:
    """The verbs of whoever says on every start what it wants."""

    def __init__(
        self,
        admission: Admission,
        directory: Directory,
        reopenings: Reopenings,
        names: Names,
        connections: Connections,
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._reopenings = reopenings
        self._names = names
        self._connections = connections

    async def put(self, name: str, request: ConnectionRequest) -> Opening | ConnectionRecord:
        """Have a connection of this name: begin it, or return the record of the one that is there and was asked for the same.

        Raises:
            NameTaken: If it was asked for otherwise.
            Declared: If the configuration has it.
            WrongState: If it is Closing, and does not end.
            As `open`.
        """
        wrong = check_connection_name(name, "path:name") + (
            [] if request.name in (UNSET, name) else [Invalid("/name", f"must be absent, or {name!r} as in the path")]
        )
        request = msgspec.structs.replace(request, name=name)
        wrong = wrong or check_request(request)
        if wrong:
            raise InvalidRequest(wrong)
        await self._names.settled(name)
        entry = self._directory.living(name)
        if entry is not None and entry.update.status in (STATUS_CLOSING, STATUS_CLOSED):
            ended = self._directory.until(entry.created.id, lambda update: update.ended)
            await asyncio.wait({ended}, timeout=entry.created.close_timeout_s + ANSWER_MARGIN_S)
            entry = self._directory.living(name)
        if entry is None:
            return await self._connections.open(request)
        self._admission.refuse_declared(entry.created)
        if entry.update.status in (STATUS_CLOSING, STATUS_CLOSED):
            raise WrongState(entry.created.id, STATUS_CLOSING)
        spec = self._reopenings.spec(entry.created.id)
        places = ["/url"] if spec is None else difference(spec, request)
        if places:
            raise NameTaken(name, entry.created.id, places)
        return self._directory.to_record(entry)
