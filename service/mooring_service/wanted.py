"""What is wanted of connections, in the words of who wants it: one of this name is there, and is as it was asked for."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from mooring.changes import OF_ALL, Changes, changed, check_changes, given
from mooring.checks import check_connection_name
from mooring.connection.asked import check_asked, shown_of
from mooring.deadline import first_of
from mooring.errors import ConnectionClosed, Invalid, InvalidRequest, NotKept, WorkerTooOld, WrongState
from mooring.link.messages_changed import Change, Changed
from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING, ConnectionCreated
from mooring.name_errors import NameTaken, SecretNotAllowed
from mooring.options import DEFAULT_WORKER, ConnectionRequest, effective
from mooring_service.admission import Admission
from mooring_service.connections import ANSWER_MARGIN_S, COMMAND_S, Connections
from mooring_service.directory import Directory, Entry
from mooring_service.holders import Holders
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Journal
from mooring_service.naming import Names, difference
from mooring_service.opening import Opening
from mooring_service.records import ConnectionRecord
from mooring_service.reopening import Reopenings

CHANGES_VERSION = 6
"""A worker of an older version of the link knows no `Change`."""


class Wanted:
    """The verbs of whoever says on every start what it wants."""

    def __init__(
        self,
        admission: Admission,
        journal: Journal,
        directory: Directory,
        reopenings: Reopenings,
        names: Names,
        holders: Holders,
        connections: Connections,
    ) -> None:
        self._admission = admission
        self._journal = journal
        self._directory = directory
        self._reopenings = reopenings
        self._names = names
        self._holders = holders
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
        says_worker = request.worker != DEFAULT_WORKER or not self._admission.placing
        request = self._admission.placed(msgspec.structs.replace(request, name=name))
        wrong = wrong or check_asked(request, self._admission.known)
        if wrong:
            raise InvalidRequest(wrong)
        await self._names.settled(name)
        entry = self._directory.living(name)
        if entry is not None and entry.update.status in (STATUS_CLOSING, STATUS_CLOSED):
            ended = self._directory.until(entry.created.id, lambda update: update.ended)
            await first_of((ended,), entry.created.close_timeout_s + ANSWER_MARGIN_S)
            entry = self._directory.living(name)
        if entry is None:
            return await self._connections.open(request)
        self._admission.refuse_declared(entry.created)
        if entry.update.status in (STATUS_CLOSING, STATUS_CLOSED):
            raise WrongState(entry.created.id, STATUS_CLOSING)
        if request.node:
            self._admission.locate(entry.created.worker, request.node)
        spec = self._reopenings.spec(entry.created.id)
        # What is not said is equal to any: in a cluster a program says the same at each node.
        alike = {"node": UNSET} | ({} if says_worker or spec is None else {"worker": spec.worker})
        request = msgspec.structs.replace(request, **alike)
        places = ["/url"] if spec is None else difference(spec, request)
        if places:
            raise NameTaken(name, entry.created.id, places)
        return self._directory.to_record(entry)

    async def change(self, connection: int, changes: Changes) -> ConnectionRecord:
        """Change what a connection is asked for, from its next attempt on (clocks, and what sends do while it is down: at once).

        Raises:
            InvalidRequest: If anything of it is not valid; nothing is changed then.
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state.
            NotKept: If it was opened without ``reconnect``, and anything but clocks is to be changed.
            Declared: If the configuration has it.
            SecretNotAllowed, PolicyRefused, WorkerTooOld, WorkerSilent, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        entry = self._directory.entry(connection)
        if entry.update.status == STATUS_CLOSED:
            raise ConnectionClosed(connection)
        self._admission.refuse_declared(entry.created)
        wrong = check_changes(changes)
        if wrong:
            raise InvalidRequest(wrong)
        return await self.change_entry(entry, changes)

    async def change_entry(self, entry: Entry, changes: Changes) -> ConnectionRecord:
        """As `change`, also of what the configuration has."""
        created = entry.created
        if created.kept is None and not given(changes).keys() <= OF_ALL:
            raise NotKept(created.id)
        self._admission.check_writable()
        spec = self._reopenings.spec(created.id)
        becomes = changed(spec or ConnectionRequest(url=created.url, reconnect=created.kept is not None), changes)
        wrong = check_asked(becomes, self._admission.known)
        if wrong:
            raise InvalidRequest(wrong)
        self._admission.check_way(becomes, declared=created.declared)
        if spec is not None and self._holders.nobody(entry):
            await self._become(entry, becomes)
        else:
            await self._tell(entry, changes)
        return self._directory.record(created.id)

    async def _become(self, entry: Entry, spec: ConnectionRequest) -> None:
        """No process holds it: it is opened so once there is one."""
        was = entry.created
        options = effective(spec)
        created = ConnectionCreated.of(
            was.id, was.worker, was.handler, was.created_at_us, options, name=was.name, declared=was.declared,
            asked=shown_of(options), spec=spec,
        )  # fmt: skip
        if created.kept is None:  # its handler says so
            created = msgspec.structs.replace(created, kept=was.kept)
        self._reopenings.remember(was.id, spec)
        await self._journal.append_waiting(Append(worker=was.worker, created=[created]))

    async def _tell(self, entry: Entry, changes: Changes) -> None:
        connection = entry.created.id
        slot = self._holders.of(entry)
        if slot.version < CHANGES_VERSION:
            raise WorkerTooOld(slot.name, ["PATCH"])
        number, future = slot.request(COMMAND_S)
        slot.command(Change(number, connection, changes))
        answer = await future
        assert isinstance(answer, Changed), "a worker answers Change with Changed"
        if answer.secret:
            raise SecretNotAllowed(answer.secret, answer.host)
        if answer.errors:
            raise InvalidRequest(answer.errors)
        if not answer.kept:
            raise NotKept(connection)
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        if not answer.done:
            raise WrongState(connection, answer.status)
