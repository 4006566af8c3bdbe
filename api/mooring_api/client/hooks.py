"""The client's verbs of hooks."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from mooring_api.client.transport import Transport
from mooring_service.hook_records import (
    AttemptList,
    AttemptRecord,
    HookList,
    HookRecord,
    HookSecret,
    HookSkip,
    HookTested,
)


class HookVerbs(Transport):
    """Have events posted to a URL: make, look, pause, move, test."""

    async def hooks(self) -> list[HookRecord]:
        """Return all hooks."""
        return (await self._json(HookList, "GET", "/v1/hooks")).hooks

    async def hook(self, name: str) -> HookRecord:
        """Return one hook, with what waits to be posted again."""
        return await self._json(HookRecord, "GET", _path(name))

    async def set_hook(self, name: str, url: str, /, **options: Any) -> HookRecord:
        """Make a hook, or replace what defines it; the record of a new one has its `secret`, which is shown this once.

        Args:
            options: As the API has them: `kinds`, `workers`, `after`, `maxEvents`, …
        """
        return await self._json(
            HookRecord, "PUT", _path(name), content_type="application/json", body=_body({"url": url, **options})
        )

    async def remove_hook(self, name: str) -> HookRecord:
        """Remove a hook; return its last record."""
        return await self._json(HookRecord, "DELETE", _path(name))

    async def pause_hook(self, name: str, reason: str = "") -> HookRecord:
        """Post nothing more to a hook until it is resumed; it keeps its place."""
        return await self._json(
            HookRecord, "POST", _path(name, "pause"), content_type="application/json", body=_body({"reason": reason})
        )

    async def resume_hook(self, name: str) -> HookRecord:
        """Have a paused hook go on."""
        return await self._json(HookRecord, "POST", _path(name, "resume"))

    async def retry_hook(self, name: str) -> HookRecord:
        """Try at once what waits for its retry."""
        return await self._json(HookRecord, "POST", _path(name, "retry"))

    async def test_hook(self, name: str) -> HookTested:
        """Post once, without an event."""
        return await self._json(HookTested, "POST", _path(name, "test"))

    async def move_hook(self, name: str, after: str) -> HookRecord:
        """Have a hook go on behind the event `after`, at ``start`` or ``now``."""
        return await self._json(
            HookRecord, "POST", _path(name, "cursor"), content_type="application/json", body=_body({"after": after})
        )

    async def skip_hook(self, name: str, through: str) -> int:
        """Give up what waits to be posted again, up to the event `through`; return how many events that is."""
        return (
            await self._json(
                HookSkip, "POST", _path(name, "skip"), content_type="application/json", body=_body({"through": through})
            )
        ).skipped

    async def add_hook_secret(self, name: str, secret: str | None = None, *, expires_in: float = 86_400.0) -> str:
        """Have another secret sign (None: one is made), beside the old ones for `expires_in` seconds; return it."""
        asked = {"expiresIn": expires_in} | ({} if secret is None else {"secret": secret})
        return (
            await self._json(
                HookSecret, "POST", _path(name, "secrets"), content_type="application/json", body=_body(asked)
            )
        ).secret

    async def hook_attempts(self, name: str, limit: int = 100) -> list[AttemptRecord]:
        """Return the last attempts, newest first."""
        return (await self._json(AttemptList, "GET", f"{_path(name, 'attempts')}?limit={limit}")).attempts


def _path(name: str, *more: str) -> str:
    return "/".join(("/v1/hooks", quote(name, safe=""), *more))


def _body(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value)
