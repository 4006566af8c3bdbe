"""What the service answers, for users of the client: records of events and pages, and the two ways in which a request fails."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring_service.records import ConnectionRecord


class ApiError(Exception):
    """An answer that is a problem (RFC 9457); its members are attributes, `extra` holds those of its type."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.errors: list[dict[str, Any]] = problem.get("errors", [])
        self.extra = {
            name: value
            for name, value in problem.items()
            if name not in ("type", "title", "status", "detail", "errors")
        }

    def __str__(self) -> str:
        return self.detail or self.title or f"status {self.status}"


class ServiceAway(Exception):
    """No service answers at the address."""


class Event(msgspec.Struct, frozen=True):
    """One event; `event` is 4D's ``$2`` object, `raw` the JSON as it came."""

    id: str
    kind: str
    time: str
    event: dict[str, Any]
    connection: int | None = None
    worker: str | None = None
    seq: int | None = None


class Page(msgspec.Struct, frozen=True):
    """A page of events; `next` is the cursor of the next one."""

    events: list[Event]
    next: str


class ConnectionPage(msgspec.Struct, frozen=True):
    """A page of records; `next` is the ``after`` of the next one, None at the end."""

    connections: list[ConnectionRecord]
    next: int | None


class Sent(msgspec.Struct, frozen=True, rename="camel"):
    """What a send did: how many messages were written to the socket, or wait (`queued`); `bytes` of both.

    `queue_id`, `expires_at`: of the first that waits.
    """

    sent: int = 0
    bytes: int = 0
    queued: int = 0
    queue_id: int | None = None
    expires_at: str | None = None


class QueueRecord(msgspec.Struct, frozen=True):
    """What waits to be sent."""

    messages: int
    bytes: int


class NotReached(OSError):
    """Nobody took the request: it may be made elsewhere, whatever it asks for."""
