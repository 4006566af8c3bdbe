"""All hooks, each with its sender: begun from file and journal, ended in order; where they may post to, and what they tell."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mooring.background import Background
from mooring.dial_options import DialSettings
from mooring.errors import JournalUnavailable
from mooring.events import Kind, now_us, service_body
from mooring.wire.connect import Connector
from mooring_service.admission import Admission
from mooring_service.directory import Directory
from mooring_service.feed import Feed
from mooring_service.hook_errors import UnknownHook
from mooring_service.hook_options import HookRequest
from mooring_service.hook_records import HookRecord
from mooring_service.hooks import telling
from mooring_service.hooks.egress import DeliveryPolicy
from mooring_service.hooks.hook import Hook
from mooring_service.hooks.place import Place, recovered, stored
from mooring_service.hooks.post import Poster
from mooring_service.hooks.sender import Sender
from mooring_service.hooks.store import HookStore, StoredDefinition
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.cursor import Broken, parse_cursor
from mooring_service.journal.journal import Journal, StoredHook

LOOK_S = 60.0  # how late each hook is, for the log
LOOKS = 20  # but so often while an event grows old
IN_FLIGHT_S = 2.0  # what is under way when the service stops
UNKNOWN_PLACE = "unknown-0"
MAX_KNOWN = 10_000  # connections that have borne a name; of older ones nothing is kept any more, mostly
NOBODY = -1  # an id that no connection has
NOT_CONFIGURED = "not-configured"
"""Why a hook is paused that has vanished from the configuration: a slip there must not lose its place."""
NO_SECRET = "secret-file"
"""Why one of the configuration is whose secret cannot be read."""

log = logging.getLogger("mooring.hooks")


class Senders:
    """All hooks of a service. It is what a sender knows of the service round it (`sender.House`)."""

    def __init__(
        self,
        admission: Admission,
        journal: Journal,
        feed: Feed,
        directory: Directory,
        state_dir: Path,
        background: Background,
    ) -> None:
        self.journal = journal
        self.feed = feed
        self._directory = directory
        self.by_name: dict[str, Sender] = {}
        self._admission = admission
        self._background = background
        self._store = HookStore(state_dir / "hooks.json")
        self._connector: Connector | None = None
        self._own: tuple[str, int] | None = None
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self._loaded: dict[str, StoredDefinition] = {}
        self.unclaimed: dict[str, StoredHook] = {}

    def load(self) -> None:
        """Read the file of definitions.

        Raises:
            HooksUnreadable: If it cannot be read.
        """
        self._loaded = self._store.load()

    def place(self, places: list[StoredHook]) -> None:
        """Take in what was loaded, each hook at its place of `places`, which the journal has kept."""
        self.unclaimed = {place.name: place for place in places}
        for name, one in self._loaded.items():
            self.add(name, one, self._place(one, self.unclaimed.pop(name, None)))

    async def start(self) -> None:
        """Begin to post."""
        for name in self.unclaimed:  # it was being made, or deleted, when the service died; or its file is missing
            log.warning(
                "hooks.json and the configuration have no hook %s: its place is forgotten", name, extra={"hook": name}
            )
            await self.journal.forget_hook(name)
        self.unclaimed = {}
        for sender in self.by_name.values():
            self.go_on(sender)

    async def _watch(self) -> None:
        # Ends by cancellation. A hook that waits, or is paused, does not look by itself.
        while True:
            max_age_s = self._admission.config.journal.max_age
            for hook in self.hooks():
                telling.late(hook, self.lag_s(hook), max_age_s)
            await asyncio.sleep(min(LOOK_S, max_age_s / LOOKS))

    def _place(self, one: StoredDefinition, place: StoredHook | None) -> Place:
        if place is not None:
            return recovered(place)
        if self._admission.config.journal.store == "memory":
            log.warning("the journal is in memory: a hook begins anew, at %r", one.definition.after)
            found = self.find(one.definition.after)
            if found is not None:
                return Place(1, self.journal.epoch, found, f"{self.journal.epoch}-{found}")
        return Place(1, "", 0, UNKNOWN_PLACE)

    def add(self, name: str, one: StoredDefinition, place: Place) -> Sender:
        """Take a hook in; it is not started."""
        hook = Hook(
            name,
            one.definition,
            one.secrets,
            place,
            created_us=one.created_us,
            configured=one.configured,
            paused=one.paused,
            paused_us=one.paused_us,
            also_paused=one.also_paused,
        )
        sender = self.by_name[name] = Sender(hook, self, self.poster(), self._background)
        return sender

    def poster(self) -> Poster:
        """Return a socket for one hook, not yet dialled."""
        if self._connector is None:
            settings, insecure = self._dialling()
            self._connector = Connector(self.policy, settings, allow_insecure_tls=insecure)
        return Poster(self._connector)

    @property
    def policy(self) -> DeliveryPolicy:
        """Where hooks may post to, as the configuration has it now."""
        config = self._admission.config
        return DeliveryPolicy(config.delivery.allow, [*config.egress.deny, *config.delivery.deny], self._own)

    def _dialling(self) -> tuple[DialSettings, bool]:
        config = self._admission.config
        return (
            DialSettings(proxies=config.proxies, **msgspec.structs.asdict(config.dial)),
            config.egress.allow_insecure_tls,
        )

    def listens_at(self, host: str, port: int) -> None:
        """Say where the API listens: no hook may post there."""
        self._own = (host, port)
        self.redial()

    def redial(self) -> None:
        """Decide by the configuration as it is now, on sockets that are dialled now."""
        if self._connector is not None:
            settings, insecure = self._dialling()
            self._connector.configure(self.policy, settings, allow_insecure_tls=insecure)
        for sender in self.by_name.values():
            sender.redial()

    async def redefine(self, sender: Sender, definition: HookRequest) -> None:
        """Have a hook go on by another definition, from its next attempt on."""
        hook = sender.hook
        if definition.content == hook.definition.content:
            hook.definition = definition
            if sender.forget_failures():
                await self.journal.save_hook(stored(hook.name, hook.place))
            return
        await sender.halt()  # or its answer would store a place of the generation before
        hook.definition = definition
        sender.forget_failures()
        hook.place = replace(hook.place, generation=hook.place.generation + 1, known=())
        await self.journal.save_hook(stored(hook.name, hook.place))
        self.go_on(sender)

    def go_on(self, sender: Sender) -> None:
        """Start a sender (again), unless the service stops."""
        if not self._stopping:
            sender.start()
            self._watching = self._watching or self._background.spawn(self._watch(), name="how late hooks are")

    def begin_stop(self) -> None:
        """From now on no attempt begins."""
        self._stopping = True
        for sender in self.by_name.values():
            sender.stop()

    async def close(self) -> None:
        """End all senders: what is in flight has `IN_FLIGHT_S`, then it is cut, and goes out again after the next start."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(sender.close(IN_FLIGHT_S) for sender in self.by_name.values()))
        if self._connector is not None:
            self._connector.close()

    def events_of(self, hook: Hook) -> EventFilter:
        """Return what of the journal a hook wants; learn which connections the names mean that it follows."""
        definition = hook.definition
        ids = {one for one in definition.connections if isinstance(one, int)}
        if definition.follows_names:
            known = set(hook.place.known)
            for one in definition.connections:
                known.update(self._directory.ids_of(one) if isinstance(one, str) else ())
            if len(known) > len(hook.place.known):
                hook.place = replace(hook.place, known=tuple(sorted(known)[-MAX_KNOWN:]))
            ids |= known or {NOBODY}
        return EventFilter(frozenset(ids), frozenset(definition.workers), definition.kind_numbers)

    def tell(self, kind: Kind, event: msgspec.Struct) -> None:
        """Record an event of the service itself."""
        body = service_body(kind, now_us(), event)
        self.journal.append(Append(connections=bytes(8), kinds=bytes([kind]), bodies=body))

    async def save(self) -> None:
        """Write the file of definitions; what is wrong with the disk is told, and mended by the next change."""
        try:
            await self.keep(self.definitions())
        except JournalUnavailable as exc:
            log.error("%s", exc)

    async def keep(self, definitions: dict[str, StoredDefinition]) -> None:
        """Write the file of definitions.

        Raises:
            JournalUnavailable: If it cannot be written.
        """
        try:
            await self._store.save(definitions)
        except OSError as exc:
            raise JournalUnavailable(f"hooks.json cannot be written: {exc.strerror}") from None

    def definitions(self) -> dict[str, StoredDefinition]:
        """Return what the file is to hold."""
        return {
            name: StoredDefinition(
                hook.definition,
                [] if hook.configured else hook.secrets,
                hook.created_us,
                hook.configured,
                hook.paused,
                hook.paused_us,
                hook.also_paused,
            )
            for name, hook in ((name, sender.hook) for name, sender in sorted(self.by_name.items()))
        }

    def find(self, after: str) -> int | None:
        """Return the position that `after` names; None where it is of another record."""
        found = parse_cursor(after, epoch=self.journal.epoch, first=self.journal.first, last=self.feed.last)
        if not isinstance(found, Broken):
            return found.position
        # Too old is a gap, as for any subscriber; what is to come is nobody's place.
        return found.position if found.position is not None and found.position <= self.feed.last else None

    def get(self, name: str) -> Sender:
        """Return the sender of a hook.

        Raises:
            UnknownHook: If there is none of that name.
        """
        sender = self.by_name.get(name)
        if sender is None:
            raise UnknownHook(name)
        return sender

    def record_of(self, hook: Hook, *, held: bool = False) -> HookRecord:
        """Return the record of a hook; `held`: with what waits."""
        return hook.record(self.feed.last, self.lag_s(hook), held=held)

    def hooks(self) -> list[Hook]:
        """Return all hooks, by name."""
        return [sender.hook for _, sender in sorted(self.by_name.items())]

    def failing(self) -> list[str]:
        """Return the names of those that are Failing."""
        return [hook.name for hook in self.hooks() if hook.is_failing]

    def lag_s(self, hook: Hook) -> float:
        """Return for how long the oldest event that a hook lacks is there."""
        since_ms = hook.cut.time_ms if hook.cut is not None else hook.behind_ms
        return max(0.0, (self.journal.now_ms() - since_ms) / 1_000) if since_ms else 0.0
