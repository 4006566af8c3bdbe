"""Hooks that stand in the configuration: made, changed and paused as it is read, at the start and at each SIGHUP.

One that has vanished from it is paused, and keeps its place as long as the journal would keep its events: a slip must not lose it. Who
was paused before, or is meanwhile, stays so when it is back.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from mooring.errors import JournalUnavailable, MooringError
from mooring.events import now_us
from mooring_service.config import Config
from mooring_service.hook_options import HookSettings, secret_faults
from mooring_service.hooks.hook import MAX_SECRETS, Secret
from mooring_service.hooks.place import Place, recovered, stored
from mooring_service.hooks.senders import NO_SECRET, NOT_CONFIGURED, Senders
from mooring_service.hooks.store import StoredDefinition

MAX_FILE_CHARS = 4_096

log = logging.getLogger("mooring.hooks")


class SecretFileWrong(MooringError):
    """A file of secrets cannot be used; the text quotes nothing of it."""


def read_secrets(path: str) -> list[str]:
    """Return the secrets of a file: one a line.

    Raises:
        SecretFileWrong: If it cannot be read, or holds anything else.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(MAX_FILE_CHARS).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        raise SecretFileWrong(f"{path} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}") from None
    if not 1 <= len(lines) <= MAX_SECRETS:
        raise SecretFileWrong(f"{path} holds {len(lines)} secrets; 1 to {MAX_SECRETS} are wanted, one a line")
    for at, line in enumerate(lines, 1):
        for fault in secret_faults(line):
            raise SecretFileWrong(f"{path}, line {at}: {fault}")
    return lines


async def reconcile(senders: Senders, config: Config, *, started: bool) -> None:
    """Have the hooks be what the configuration says; `started`: new ones begin at once."""
    before = senders.definitions()
    for name, settings in sorted(config.hooks.items()):
        await _configure(senders, name, settings, started=started)
    for name, sender in list(senders.by_name.items()):
        hook = sender.hook
        if not hook.configured or name in config.hooks:
            continue
        if hook.paused != NOT_CONFIGURED:
            if hook.paused != NO_SECRET:
                hook.also_paused = hook.paused
            await sender.pause(NOT_CONFIGURED)
            sender.wake()
        elif time.time() > hook.paused_us / 1e6 + config.journal.max_age:
            await sender.halt()
            del senders.by_name[name]
            await senders.journal.forget_hook(name)
    if senders.definitions() != before:
        await senders.save()


async def _configure(senders: Senders, name: str, settings: HookSettings, *, started: bool) -> None:
    wanted = settings.definition
    now = now_us()
    secrets: list[Secret] = []
    try:
        secrets = [Secret(secret, now) for secret in read_secrets(settings.secret_file)]
    except SecretFileWrong as exc:
        log.error("hook %s: its secret_file: %s", name, exc, extra={"hook": name})
    sender = senders.by_name.get(name)
    if sender is None:
        known = senders.unclaimed.pop(name, None)
        epoch, position = senders.journal.epoch, senders.find(settings.after)
        if known is not None:
            place = recovered(known)
        elif position is not None:
            place = Place(1, epoch, position, f"{epoch}-{position}")
        else:
            place = Place(1, "", 0, settings.after)
        try:
            await senders.journal.save_hook(stored(name, place), fails_fast=True)
        except JournalUnavailable as exc:
            log.error("hook %s cannot be made: %s; SIGHUP tries it again", name, exc, extra={"hook": name})
            return
        asked = "asked" if settings.paused is True else None
        paused, also = (asked, None) if secrets else (NO_SECRET, asked)
        made = StoredDefinition(wanted, secrets, now, configured=True, paused=paused, also_paused=also)
        sender = senders.add(name, made, place)
        if started:
            senders.go_on(sender)
        return
    hook = sender.hook
    if not hook.configured:
        log.warning(
            "hook %s now stands in the configuration, which defines it from here on", name, extra={"hook": name}
        )
        hook.configured = True
    if secrets and [one.secret for one in hook.secrets] != [one.secret for one in secrets]:
        hook.secrets = secrets
    if wanted != hook.definition:
        await senders.redefine(sender, wanted)
    if hook.paused == NOT_CONFIGURED or (hook.paused == NO_SECRET and hook.secrets):
        hook.paused, hook.also_paused = hook.also_paused, None
    if not hook.secrets and hook.paused is None:
        await sender.pause(NO_SECRET)
    sender.wake(changed=True)
