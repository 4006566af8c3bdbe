"""The client's verbs of what goes over a connection: messages, what waits of them, and requests."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, TypeVar

from mooring import json_text
from mooring_api.client.answers import QueueRecord, Sent, ServiceAway
from mooring_api.client.connections import path_of
from mooring_api.client.transport import Transport, keyed
from mooring_service.records import ReplyRecord, RequestRecord

JSON = "application/json"

Found = TypeVar("Found")


class SendingVerbs(Transport):
    """Send, ask."""

    async def send(
        self,
        connection: int | str,
        message: str | bytes | dict[str, Any] | list[Any],
        *,
        when_down: str | None = None,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send text, a blob, or an object, by the type of `message`.

        Args:
            when_down: What becomes of it while a kept connection is down: ``"fail"``, or ``"queue"`` (`Sent.queued` says so then);
                None: as the connection was opened with.
            ttl: For how many seconds it may wait; None: likewise.
        """
        if isinstance(message, str):
            body, kind = message.encode(), "text/plain"
        elif isinstance(message, bytes):
            body, kind = message, "application/octet-stream"
        else:
            body, kind = json_text.encode(message), JSON
        return await self.send_body(
            connection, body, kind, when_down=when_down, ttl=ttl, headers=keyed(idempotency_key)
        )

    async def send_body(
        self,
        connection: int | str,
        body: Any,
        content_type: str,
        *,
        when_down: str | None = None,
        ttl: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Sent:
        """Send a body as it is; an async iterable of bytes is streamed, and what it raises is raised here: what it had yielded may be sent."""
        given = {"whenDown": when_down, "ttl": None if ttl is None else str(ttl)}
        failures: list[Exception] = []
        try:
            return await self._json(
                Sent,
                "POST",
                f"{path_of(connection)}/messages",
                body=_watched(body, failures) if isinstance(body, AsyncIterable) else body,
                content_type=content_type,
                headers=headers,
                params={name: value for name, value in given.items() if value is not None},
            )
        except ServiceAway:
            if failures:  # it is not the service that has failed
                raise failures[0] from None
            raise

    async def send_lines(
        self,
        connection: int | str,
        lines: AsyncIterable[bytes] | Iterable[bytes],
        *,
        when_down: str | None = None,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send JSON values, one a line, as they come; one that is not asynchronous is read on a thread, so it may block.

        With an `idempotency_key` none is sent before all have come, and together they are no larger than a body may be.
        """
        if not isinstance(lines, AsyncIterable):
            lines = _unblocked(iter(lines))
        return await self.send_body(
            connection, lines, "application/x-ndjson", when_down=when_down, ttl=ttl, headers=keyed(idempotency_key)
        )

    async def drop_queue(self, connection: int | str) -> QueueRecord:
        """Give up what waits to be sent, and return how much it was; an ``onUnsent`` tells which."""
        return await self._json(QueueRecord, "DELETE", f"{path_of(connection)}/queue")

    async def send_request(
        self,
        connection: int | str,
        value: dict[str, Any] | list[Any] | str | bytes,
        *,
        timeout: float = 10.0,
        idempotency_key: str | None = None,
    ) -> ReplyRecord:
        """Send a request over a connection that has ``requests``, and return its reply.

        Args:
            value: An object or list; or the JSON text of one.
            timeout: So many seconds the reply may take.
        """
        return await self._request(ReplyRecord, connection, value, timeout, keyed(idempotency_key))

    async def start_request(
        self,
        connection: int | str,
        value: dict[str, Any] | list[Any] | str | bytes,
        *,
        timeout: float = 10.0,
        idempotency_key: str | None = None,
    ) -> RequestRecord:
        """Send a request as `send_request`, and return its id once it is on its way; its reply will be an ordinary message."""
        headers = keyed(idempotency_key, {"Prefer": "respond-async"})
        return await self._request(RequestRecord, connection, value, timeout, headers)

    async def _request(
        self, kind: type[Found], connection: int | str, value: Any, timeout: float, headers: dict[str, str]
    ) -> Found:
        if isinstance(value, str):
            value = value.encode()
        return await self._json(
            kind,
            "POST",
            f"{path_of(connection)}/requests",
            body=value if isinstance(value, bytes) else json_text.encode(value),
            content_type=JSON,
            headers=headers,
            params={"timeout": str(timeout)},
        )


async def _watched(body: AsyncIterable[bytes], failures: list[Exception]) -> AsyncIterator[bytes]:
    """Yield what `body` does; what it raises is kept in `failures`: the HTTP library takes it for a fault of the connection."""
    try:
        async for piece in body:
            yield piece
    # Whoever made it may raise anything.
    except Exception as exc:
        failures.append(exc)
        raise


async def _unblocked(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    import asyncio  # takes longer than what a plain command asks for

    while (line := await asyncio.to_thread(next, lines, None)) is not None:
        yield line
