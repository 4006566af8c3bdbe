"""The public records of hooks: exactly the JSON that users see. Leaf."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

HOOK_TONES = {"Active": "good", "Failing": "bad", "Paused": "soft"}
"""Status of a hook → what it is for whoever watches, on the command line and the console."""


class AttemptRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt: what went out, and how it ended. `retry_after` in seconds."""

    at: str
    events: int
    bytes: int
    after: str
    next: str
    status: int | None
    ms: float
    error: str
    retry_after: float | None


class SecretRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One secret that signs: what tells it apart, never itself."""

    fingerprint: str
    created_at: str
    expires_at: str | None


class HeldEvent(msgspec.Struct, frozen=True):
    """One event of the batch that waits: no body."""

    id: str
    kind: str
    bytes: int


class HookRecord(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One hook. `delivered`, `skipped`, `lag` count events; `attempts` those of the batch that waits.

    `url` ends in ``?***`` where it has a query, and `headers` have no values: they may hold a credential. `held` is what waits
    to be posted again; `secret` stands only in the answer to the PUT that made it.
    """

    name: str
    url: str
    status: str
    reason: str | None
    cursor: str
    generation: int
    lag: int
    lag_seconds: float
    failing_since: str | None
    next_attempt_at: str | None
    attempts: int
    delivered: int
    skipped: int
    last_success_at: str | None
    last_attempt: AttemptRecord | None
    clock_skew: float | None
    workers: list[str]
    connections: list[int | str]
    kinds: list[str]
    after: str
    format: str
    max_events: int
    max_bytes: int
    max_event_bytes: int
    linger: float
    timeout: float
    retry: dict[str, float]
    refused: str
    headers: dict[str, str]
    tls: dict[str, Any]
    proxy: str | UnsetType | None = UNSET
    secrets: list[SecretRecord]
    created_at: str
    configured: bool
    held: list[HeldEvent] = []
    secret: str | UnsetType = UNSET


class HookList(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/hooks``."""

    hooks: list[HookRecord]


class AttemptList(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/hooks/{name}/attempts``, newest first."""

    attempts: list[AttemptRecord]


class HookTested(msgspec.Struct, frozen=True):
    """The answer of ``POST /v1/hooks/{name}/test``; `status` is None where there was no answer."""

    status: int | None
    ms: float
    error: str


class HookSkip(msgspec.Struct, frozen=True):
    """The answer of ``POST /v1/hooks/{name}/skip``."""

    skipped: int


class HookSecret(msgspec.Struct, frozen=True):
    """The answer of ``POST /v1/hooks/{name}/secrets``: shown this once."""

    secret: str
