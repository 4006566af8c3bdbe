"""The verbs of hooks: to define, to show, to remove, to sign with another secret."""

from __future__ import annotations

import asyncio
import os

import msgspec
from msgspec.structs import replace

from mooring.errors import (
    Invalid,
    InvalidRequest,
    JournalUnavailable,
    LimitReached,
    PolicyRefused,
)
from mooring.events import now_us
from mooring.wire.target import parse_target
from mooring_service.admission import Admission
from mooring_service.config import Config
from mooring_service.hook_errors import HookConfigured, HookConflict
from mooring_service.hook_options import HookRequest, check_hook, secret_of
from mooring_service.hook_records import AttemptRecord, HookRecord
from mooring_service.hooks.configured import reconcile
from mooring_service.hooks.hook import MAX_SECRETS, Secret
from mooring_service.hooks.operation import Operation
from mooring_service.hooks.place import Place, stored
from mooring_service.hooks.sender import Sender
from mooring_service.hooks.senders import Senders
from mooring_service.hooks.store import StoredDefinition
from mooring_service.journal.journal import StoredHook

MADE_SECRET_BYTES = 32


class Hooks(Operation):
    """The verbs.

    Attributes:
        senders: All hooks.
    """

    def __init__(self, admission: Admission, senders: Senders) -> None:
        super().__init__(admission, senders, asyncio.Lock())

    async def start(self, places: list[StoredHook]) -> None:
        """Go on with what there is: in the file, in the configuration, and in the journal, which has kept `places`."""
        self.senders.place(places)
        async with self._changing:
            await reconcile(self.senders, self._admission.config, started=False)
        await self.senders.start()

    async def reconfigure(self, config: Config) -> None:
        """Have the hooks of the configuration be as it says now, and all of them dial by it."""
        async with self._changing:
            self.senders.redial()
            await reconcile(self.senders, config, started=True)

    def record(self, name: str) -> HookRecord:
        """Return one record, with what waits.

        Raises:
            UnknownHook: If there is none of that name.
        """
        return self.senders.record_of(self.senders.get(name).hook, held=True)

    def records(self) -> list[HookRecord]:
        """Return all records, by name."""
        return [self.senders.record_of(sender.hook) for _, sender in sorted(self.senders.by_name.items())]

    def attempts(self, name: str, limit: int) -> list[AttemptRecord]:
        """Return the last attempts, newest first.

        Raises:
            UnknownHook: If there is none of that name.
        """
        found = list(self.senders.get(name).hook.attempts)
        return found[::-1][:limit]

    def _changeable(self, name: str) -> Sender:
        sender = self.senders.get(name)
        if sender.hook.configured:
            raise HookConfigured(name)
        return sender

    async def put(self, name: str, wanted: HookRequest) -> HookRecord:
        """Make a hook (its record has its secret then), or replace its definition; its place and its secrets stay.

        Raises:
            InvalidRequest: If something of it is not valid.
            PolicyRefused: If `[delivery]` does not let it go there.
            HookConfigured: If it stands in the configuration.
            HookConflict: If this is a node of a cluster.
            LimitReached: If there are too many.
            JournalUnavailable: If its place, or its definition, cannot be stored.
        """
        self._admission.check()
        async with self._changing:
            sender = self.senders.by_name.get(name)
            if sender is not None and sender.hook.configured:
                raise HookConfigured(name)
            config = self._admission.config
            if config.cluster.name:
                raise HookConflict("hooks are not made at a node of a cluster: their places would be this node's alone")
            if not config.delivery.from_api:
                raise PolicyRefused("[delivery] from_api is false: hooks stand in the configuration")
            self._check(wanted, config)
            if sender is not None:
                return await self._replace(sender, wanted)
            if len(self.senders.by_name) >= config.limits.max_hooks:
                raise LimitReached("limits.max_hooks", config.limits.max_hooks)
            return await self._make(name, wanted)

    def _check(self, wanted: HookRequest, config: Config) -> None:
        wrong = check_hook(wanted, allow_plain=config.delivery.allow_plain)
        if isinstance(wanted.proxy, str) and wanted.proxy not in config.proxies:
            wrong.append(Invalid("/proxy", f"[proxies] of the configuration has no {wanted.proxy!r}"))
        if wrong:
            raise InvalidRequest(wrong)
        if not wanted.tls.verify and not config.egress.allow_insecure_tls:
            raise PolicyRefused("tls.verify false is refused: [egress] allow_insecure_tls is not set")
        try:
            target = parse_target(wanted.url)
        except ValueError:
            raise InvalidRequest([Invalid("/url", "its host is none")]) from None
        refusal = self.senders.policy.refusal_at_once(target)
        if refusal is not None:
            raise PolicyRefused(refusal)

    async def _make(self, name: str, wanted: HookRequest) -> HookRecord:
        position = self.start_of(wanted.after)
        secret = wanted.secret if isinstance(wanted.secret, str) else secret_of(os.urandom(MADE_SECRET_BYTES))
        now = now_us()
        place = Place(1, self.senders.journal.epoch, position, f"{self.senders.journal.epoch}-{position}")
        await self.senders.journal.save_hook(stored(name, place), fails_fast=True)
        one = StoredDefinition(
            _plain(wanted), [Secret(secret, now)], now, paused="asked" if wanted.paused is True else None
        )
        sender = self.senders.add(name, one, place)
        try:
            await self.senders.keep(self.senders.definitions())
        except JournalUnavailable:
            del self.senders.by_name[name]
            raise
        self.senders.go_on(sender)
        return replace(self._record(sender.hook), secret=secret)

    async def _replace(self, sender: Sender, wanted: HookRequest) -> HookRecord:
        hook = sender.hook
        before = hook.definition
        wrong = []
        if isinstance(wanted.secret, str):
            wrong.append(
                Invalid("/secret", f"a hook that is there gets another secret by POST /v1/hooks/{hook.name}/secrets")
            )
        if wanted.after != before.after:
            wrong.append(
                Invalid("/after", f"differs from {before.after!r}, where it was made; to move it, POST …/cursor")
            )
        if wrong:
            raise InvalidRequest(wrong)
        paused = hook.paused
        if isinstance(wanted.paused, bool):
            paused = (hook.paused or "asked") if wanted.paused else None
        after = _plain(wanted)
        if after == before and paused == hook.paused:
            return self._record(hook)
        found = self.senders.definitions()
        found[hook.name] = replace(found[hook.name], definition=after, paused=paused)
        await self.senders.keep(found)
        await self.senders.redefine(sender, after)
        if paused is not None and hook.paused is None:
            await sender.pause(paused)
        hook.paused = paused
        sender.wake(changed=True)
        return self._record(hook)

    async def delete(self, name: str) -> HookRecord:
        """Remove a hook; what is in flight is cut. Return its last record.

        Raises:
            UnknownHook: If there is none of that name.
            HookConfigured: If it stands in the configuration.
            JournalUnavailable: If hooks.json cannot be written.
        """
        async with self._changing:
            sender = self._changeable(name)
            record = self._record(sender.hook)
            found = self.senders.definitions()
            del found[name]
            await self.senders.keep(found)
            await sender.halt()
            del self.senders.by_name[name]
            await self.senders.journal.forget_hook(name)
            return record

    async def add_secret(self, name: str, secret: str | None, expires_in_s: float) -> str:
        """Have another secret sign, first; the old ones sign on for `expires_in_s`. Return it: it is shown this once.

        Raises:
            UnknownHook: If there is none of that name.
            HookConfigured: If it stands in the configuration.
            HookConflict: If there would be too many valid ones.
            JournalUnavailable: If hooks.json cannot be written.
        """
        async with self._changing:
            hook = self._changeable(name).hook
            now = now_us()
            until = now + int(expires_in_s * 1e6)
            old = [
                replace(one, expires_us=until if one.expires_us is None else min(one.expires_us, until))
                for one in hook.valid(now)
            ]
            old = [one for one in old if expires_in_s > 0]
            if len(old) >= MAX_SECRETS:
                raise HookConflict(
                    f"hook {name!r} has {MAX_SECRETS} valid secrets; let one expire, or ask with expiresIn 0"
                )
            made = secret if secret is not None else secret_of(os.urandom(MADE_SECRET_BYTES))
            before, hook.secrets = hook.secrets, [Secret(made, now), *old]
            try:
                await self.senders.keep(self.senders.definitions())
            except JournalUnavailable:
                hook.secrets = before
                raise
            return made


def _plain(wanted: HookRequest) -> HookRequest:
    """Return a definition without what is no part of it: its first secret, and whether it is paused."""
    return replace(wanted, secret=msgspec.UNSET, paused=msgspec.UNSET)
