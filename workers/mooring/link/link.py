"""The worker's end of the link: dials the service, says who it is, dials again when the service is gone.

While there is no service the worker goes on: events wait in the outbox. After the orphan time without one it ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Protocol, assert_never

import msgspec

from mooring.deadline import first_of, within
from mooring.errors import LinkError
from mooring.link.channel import Channel, frame
from mooring.link.held import HeldConnection, pack
from mooring.link.messages import (
    AskIds,
    Call,
    Command,
    GrantIds,
    Hello,
    Open,
    Probe,
    Reconfigure,
    Reconnect,
    Refused,
    Report,
    Resent,
    Stats,
    Stop,
    Stored,
    Terminate,
    Welcome,
    WorkerSettings,
    command_decoder,
)
from mooring.link.messages_changed import Change
from mooring.link.messages_sent import DropQueue, Send, SendRequest
from mooring.link.owed import ANSWERS, Owed
from mooring.link.rest import Receiver, Rest
from mooring.told import Told

REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 0.5  # a dial on a local socket costs nothing; a new service should not wait for its workers
WELCOME_TIMEOUT_S = 30.0  # a service that is adopting many workers, or recovering a large journal, may take a while
STATS_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 5.0  # the supervisor ends a process that takes longer to say goodbye
SPEC_BYTES = 128 * 1024 * 1024  # of the specs in a hello, which has room for twice as much

log = logging.getLogger("mooring.link")
_pack = msgspec.msgpack.Encoder().encode


class Held(Receiver, Protocol):
    """What the link asks of the runtime.

    Attributes:
        full_at: How many connections the service holds, if these are all that it may; else 0.
    """

    full_at: int

    def held(self) -> list[HeldConnection]:
        """Return the connections for `Hello`."""

    def link_lost(self) -> None:
        """Nobody waits for answers any more."""

    def grant_ids(self, first: int, count: int) -> None:
        """Take a block of ids."""

    def stats(self, probe: int = 0) -> Stats:
        """Return how the worker does."""

    def reconfigure(self, command: Reconfigure) -> None:
        """Take over settings that change at run time."""


class Link:
    """The link of one worker process. It is the runtime's `Uplink`.

    Args:
        who: What says which process this is; each `Hello` adds what it holds just then.
        obey: Called with each command of a request.
        stop: Called with each `Stop`.
        extend: Called with the `until` of each `Probe`.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        who: Hello,
        obey: Callable[[Change | Open | Send | SendRequest | DropQueue | Terminate | Reconnect | Call], None],
        stop: Callable[[Stop], None],
        extend: Callable[[float], None] = lambda until: None,
    ) -> None:
        self._settings, self._who = settings, who
        self._obey, self._stop, self._extend = obey, stop, extend
        self._channel: Channel[Command] | None = None
        self._welcomed, self._lost = asyncio.Event(), asyncio.Event()
        self._changed = asyncio.Event()  # frames were taken, or there is no link any more
        self._refused: Refused | None = None
        self._asked_ids = False
        self._window_bytes = math.inf  # of events on their way
        self._owed = Owed()
        self._resent: int | None = None  # all frames up to here are to be sent again, and that is still to be said
        self._heard_at = -math.inf  # a service that has not welcomed us yet
        self._rest = Rest()
        self.runtime: Held | None = None
        self.service_version = 0  # what the service that has welcomed us speaks

    # Uplink

    def send(self, report: Report) -> None:
        """Report; what finds no link is lost, but for an answer, which goes over the next one."""
        linked = self._channel if self._welcomed.is_set() else None
        try:
            if linked is not None:
                linked.send(report)
            elif isinstance(report, ANSWERS):
                self._owed.add(frame(report))
        except LinkError as exc:  # whoever waits for it is told by its deadline; all others have their link still
            log.error("a report is not sent: %s", exc)

    def send_frame(self, data: bytes) -> bool:
        """Write a frame of the outbox unless there is no link, it is congested, or as much is on its way as may be."""
        if self._channel is None or not self._welcomed.is_set() or self._channel.congested:
            return False
        # Not the link, but who may send events is held back: what else is to be said, that we live above all, still passes.
        if self._held.outbox.sent_bytes >= self._window_bytes:
            return False
        self._channel.send_frame(data)
        return True

    def ask_ids(self) -> None:
        """Ask for a further block of ids, once until it comes."""
        if not self._asked_ids:
            self._asked_ids = True
            self.send(AskIds())

    # life

    async def run(self) -> str:
        """Keep the link until the worker is to end; return why. May be cancelled."""
        attempt, was_lost, refusals = 0, False, Told()
        orphaned_at = _orphan_clock()
        while True:
            if await self._dial():
                if was_lost:
                    log.info("linked with the service again")
                attempt, was_lost = 0, True
                refusals.over()
                stats = asyncio.create_task(self._report_stats())
                try:
                    await self._lost.wait()
                finally:
                    stats.cancel()
                self._welcomed.clear()
                orphaned_at = _orphan_clock()
                log.warning("the service is gone; connections stay open, events are kept")
            if self._refused is not None:
                reason, drain = self._refused.reason, self._refused.drain
                self._refused = None
                if drain:
                    return f"refused by the service: {reason}"
                if refusals.is_new(reason):
                    log.warning("the service refuses this worker for now: %s", reason)
            orphaned_at = max(orphaned_at, self._heard_at)
            orphan_time_s = self._settings.orphan_time_s
            if orphan_time_s and _orphan_clock() - orphaned_at > orphan_time_s:
                return f"no service for {orphan_time_s:g} s"
            delay_s = min(REDIAL_MAX_S, REDIAL_MIN_S * 2 ** min(attempt, 10))
            attempt += 1
            # Jitter: many workers lose one service in the same moment.
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))

    async def _dial(self) -> bool:
        self._lost.clear()
        self._welcomed.clear()
        assert self.runtime is not None, "the runtime is set before run"
        try:
            async with within(WELCOME_TIMEOUT_S):
                _, channel = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Channel(command_decoder, self._take, self._on_lost, self._send_on),
                    self._settings.socket_path,
                )
        except (OSError, TimeoutError):
            return False
        self._channel = channel
        channel.send(
            msgspec.structs.replace(
                self._who,
                first_unstored=self.runtime.outbox.first_unstored,
                connections=_named(self.runtime.held()),
            )
        )
        return await self._until_welcomed(channel)

    async def _until_welcomed(self, channel: Channel[Command]) -> bool:
        welcomed = asyncio.create_task(self._welcomed.wait())
        lost = asyncio.create_task(self._lost.wait())
        dialled_at = _orphan_clock()
        try:
            while not (self._welcomed.is_set() or self._lost.is_set()):
                patience_s = max(dialled_at, self._heard_at) + WELCOME_TIMEOUT_S - _orphan_clock()
                if patience_s <= 0:
                    break
                await first_of((welcomed, lost), patience_s)
        finally:
            welcomed.cancel()
            lost.cancel()
        if not self._welcomed.is_set():
            channel.abort()
            self._channel = None
        return self._welcomed.is_set()

    def _take(self, channel: Channel[Command], commands: list[Command]) -> None:
        if channel is not self._channel:
            return
        if not self._welcomed.is_set():
            # There is a service: it has something to wait for itself, a journal that cannot be opened just now.
            self._heard_at = _orphan_clock()
        for command in commands:
            match command:
                case Change() | Send() | SendRequest() | DropQueue() | Open() | Terminate() | Reconnect() | Call():
                    self._rest.asked()
                    self._obey(command)
                case Stored(_, window_bytes, full_at):
                    self._window_bytes = window_bytes or math.inf
                    self._held.full_at = full_at
                    self._rest.after(command, channel, self._held)
                    self._send_on()
                case Probe(probe, until):
                    self._extend(until)
                    if self._welcomed.is_set():
                        self.send(self._held.stats(probe))
                case Welcome():
                    self._welcome(command)
                case GrantIds(first, count):
                    self._asked_ids = False
                    self._held.grant_ids(first, count)
                case Stop():
                    self._stop(command)
                case Reconfigure():
                    self._held.reconfigure(command)
                case Refused():
                    self._refused = command
                    channel.close()
                case _:
                    assert_never(command)

    @property
    def _held(self) -> Held:
        assert self.runtime is not None, "the runtime is set before run"
        return self.runtime

    def _welcome(self, welcome: Welcome) -> None:
        self.service_version = welcome.version
        self._window_bytes = welcome.window_bytes or math.inf
        self._held.full_at = welcome.full_at
        self._welcomed.set()
        self._asked_ids = False
        outbox = self._held.outbox
        self._held.grant_ids(welcome.first_id, welcome.id_count)
        outbox.resend(welcome.stored)
        outbox.flush()
        self._resent = outbox.number
        assert self._channel is not None, "what was welcomed is linked"
        for data in self._owed.take():
            self._channel.send_frame(data)
        self._tell_resent()

    def _send_on(self) -> None:
        """There may be room for further frames of the outbox."""
        self._held.outbox.send_unsent()
        self._tell_resent()
        self._changed.set()

    def _tell_resent(self) -> None:
        # Behind the last of those frames, however long the window or a congested channel holds them back: what the service does
        # not know by then, it takes for lost.
        outbox = self._held.outbox
        if self._resent is not None and outbox.number - outbox.unsent >= self._resent:
            resent, self._resent = self._resent, None
            self.send(Resent(resent))

    def _unsent(self) -> int:
        """Return how many frames wait for a link that is there."""
        return self._held.outbox.unsent if self._channel is not None and self._welcomed.is_set() else 0

    def _on_lost(self, channel: Channel[Command], exc: Exception | None) -> None:
        if channel is self._channel:
            self._channel = None
            self._lost.set()
            self._changed.set()
            self._held.link_lost()

    async def _report_stats(self) -> None:
        # Ends by cancellation, when the link is lost.
        last: Stats | None = None
        while True:
            await asyncio.sleep(STATS_INTERVAL_S)
            stats = self._held.stats()
            # CPU and memory alone always differ a little: an idle worker stays silent.
            key = msgspec.structs.replace(stats, cpu_s=0.0, rss_bytes=0, metrics=b"")
            if key != last or stats.updates:
                last = key
                self.send(stats)

    async def close(self) -> None:
        """Hand over what the outbox holds, as fast as the service takes it, then end the link; within a deadline each."""
        try:
            async with within(CLOSE_TIMEOUT_S):
                while self._unsent():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the service did not take the last %d frames in time", self._unsent())
        channel = self._channel
        if channel is not None:
            channel.close()
            try:
                async with within(CLOSE_TIMEOUT_S):
                    await self._lost.wait()
            except TimeoutError:
                channel.abort()


def _named(all_held: list[HeldConnection]) -> list[msgspec.Raw]:
    """Return who is held, and how it stands, without its URL and headers: a hello of all must fit one frame.

    What never changes is in the journal already, or in an `Events` that is sent again. Specs are in it as far as there is room:
    without its own a connection ends when this process dies, as one that is not kept.
    """
    room, found = SPEC_BYTES, []
    for held in all_held:
        spec = held.spec
        if spec is not None:
            room -= len(_pack(spec))
            spec = spec if room >= 0 else None
        created = msgspec.structs.replace(held.created, url="", header_names=[], spec=None)
        found.append(pack(HeldConnection(created, held.update, spec)))
    if room < 0:
        log.warning("the specs of kept connections are more than %d bytes: the last are not told", SPEC_BYTES)
    return found


def _orphan_clock() -> float:
    # A suspended machine must not fire the orphan clock at once: CLOCK_MONOTONIC stands still meanwhile.
    return time.monotonic()
