"""Between hello and welcome: a process has a link, and becomes a Running worker; and when the link is lost again."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from mooring.background import Background
from mooring.errors import JournalUnavailable
from mooring.link.channel import Channel
from mooring.link.messages import PROTOCOL_VERSION, Hello, Reconfigure, Report, Welcome
from mooring_service.processes.reports import ID_BLOCK, Reports
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_state import WorkerEvent, WorkerState

log = logging.getLogger("mooring.supervisor")


class Reception:
    """Welcomes processes.

    Args:
        settings: Returns what may have changed since a process was started, as the command that tells it.
    """

    def __init__(
        self, reports: Reports, roster: Roster, background: Background, settings: Callable[[], Reconfigure]
    ) -> None:
        self._reports = reports
        self._roster = roster
        self._background = background
        self._settings = settings

    def hello(self, slot: Slot, channel: Channel[Report], hello: Hello) -> None:
        """Take the first message of a link."""
        slot.version = hello.version
        self._reports.hello(slot, hello)
        channel.on_messages = lambda _, reports: self._reports.take(slot, reports)
        self._background.spawn(self._welcome(slot, channel, hello), name=f"welcome {slot.name}")

    async def _welcome(self, slot: Slot, channel: Channel[Report], hello: Hello) -> None:
        fresh = slot.record.pid == 0 or slot.name not in self._roster.adopting
        first = count = 0
        try:
            if slot.record.pid == 0:
                slot.record = msgspec.structs.replace(
                    slot.record, pid=hello.pid, started_at_ticks=hello.started_at_ticks, boot_id=hello.boot_id
                )
                await self._reports.save_incarnation(slot)
            first, count = await self._reports.allot_ids(ID_BLOCK), ID_BLOCK
        except JournalUnavailable as exc:
            # A full disk must not cost it its connections, which it closes where no service welcomes it. It asks for ids
            # once it needs some, and says again who it is to the next service.
            log.warning("worker %s is welcomed without ids: %s", slot.name, exc, extra=slot.tags)
        if slot.channel is not channel:
            return  # lost again meanwhile: perhaps it has died, and its successor is being started in this slot
        self._reports.worker_linked(slot, hello, fresh=fresh)
        channel.send(Welcome(slot.stored, first, count, PROTOCOL_VERSION, *self._reports.bounds))
        channel.send(self._settings())  # they may have changed since it was started, when it could not be told
        for _, call in slot.handed.values():
            channel.send(call)  # perhaps it has them: it takes none twice
        if slot.state is WorkerState.STARTING:
            slot.set_state(WorkerEvent.LINKED)
        self._roster.end_adoption(slot)
        if slot.state in (WorkerState.RUNNING, WorkerState.STOPPING) and not slot.ready.done():
            slot.ready.set_result(None)  # who waits for one that is told to end finds that so

    def lost(self, slot: Slot) -> None:
        """The link of a process that may live has ended."""
        if slot.state is WorkerState.RUNNING:
            slot.set_state(WorkerEvent.LINK_LOST)
            slot.renew_ready()
