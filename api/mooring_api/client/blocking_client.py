"""The client of the REST API for code that is not asynchronous: `Client` on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mooring_api.client.async_client import Client, ConnectionPage, Event, Page, Result
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord

Item = TypeVar("Item")


class BlockingClient:
    """One service, for code that is not asynchronous. Use it as ``with BlockingClient(…) as client``.

    Its verbs are those of `Client`, and block.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, state_dir: Path | None = None, ssl: Any = True
    ) -> None:
        self._client = Client(url, token, state_dir=state_dir, ssl=ssl)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mooring-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._client.__aexit__(kind, exc, traceback))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # connections

    def open(
        self, url: str, *, wait: bool = True, idempotency_key: str | None = None, **options: Any
    ) -> ConnectionRecord:
        """See `Client.open`."""
        return self._run(self._client.open(url, wait=wait, idempotency_key=idempotency_key, **options))

    def connections(
        self, *, worker: str | None = None, status: str | None = None, after: int = 0, limit: int = 1000
    ) -> ConnectionPage:
        """See `Client.connections`."""
        return self._run(self._client.connections(worker=worker, status=status, after=after, limit=limit))

    def connection(self, connection: int) -> ConnectionRecord:
        """See `Client.connection`."""
        return self._run(self._client.connection(connection))

    def send(
        self, connection: int, message: str | bytes | dict[str, Any] | list[Any], *, idempotency_key: str | None = None
    ) -> SentRecord:
        """See `Client.send`."""
        return self._run(self._client.send(connection, message, idempotency_key=idempotency_key))

    def send_body(
        self, connection: int, body: bytes, content_type: str, *, headers: dict[str, str] | None = None
    ) -> SentRecord:
        """See `Client.send_body`."""
        return self._run(self._client.send_body(connection, body, content_type, headers=headers))

    def send_lines(self, connection: int, lines: Iterable[bytes]) -> SentRecord:
        """See `Client.send_lines`; `lines` is read on a thread of its own, so it may block."""
        return self._run(self._client.send_lines(connection, _unblocked(iter(lines))))

    def terminate(self, connection: int, code: int | None = None, reason: str | None = None) -> ConnectionRecord:
        """See `Client.terminate`."""
        return self._run(self._client.terminate(connection, code, reason))

    # workers

    def workers(self) -> list[WorkerRecord]:
        """See `Client.workers`."""
        return self._run(self._client.workers())

    def worker(self, name: str) -> WorkerRecord:
        """See `Client.worker`."""
        return self._run(self._client.worker(name))

    def start_worker(self, name: str) -> WorkerRecord:
        """See `Client.start_worker`."""
        return self._run(self._client.start_worker(name))

    def kill_worker(self, name: str) -> Killed:
        """See `Client.kill_worker`."""
        return self._run(self._client.kill_worker(name))

    def drain_worker(self, name: str) -> WorkerRecord:
        """See `Client.drain_worker`."""
        return self._run(self._client.drain_worker(name))

    def call(
        self,
        worker: str,
        function: str,
        params: dict[str, Any] | list[Any] | None = None,
        *,
        wait: bool = True,
        idempotency_key: str | None = None,
    ) -> Any:
        """See `Client.call`."""
        return self._run(self._client.call(worker, function, params, wait=wait, idempotency_key=idempotency_key))

    # events

    def page(
        self,
        *,
        connection: int | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
        limit: int = 100,
        wait_s: float = 0,
    ) -> Page:
        """See `Client.page`."""
        return self._run(
            self._client.page(
                connection=connection, worker=worker, kinds=kinds, after=after, limit=limit, wait_s=wait_s
            )
        )

    def events(
        self,
        *,
        connection: int | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
    ) -> Iterator[Event]:
        """See `Client.events`."""
        return self._iterate(self._client.events(connection=connection, worker=worker, kinds=kinds, after=after))

    def backup(self) -> Iterator[bytes]:
        """See `Client.backup`."""
        return self._iterate(self._client.backup())

    def _iterate(self, stream: AsyncIterator[Item]) -> Iterator[Item]:
        try:
            while True:
                try:
                    yield self._run(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():  # a stream may be given up later than the client
                self._run(_close(stream))


async def _unblocked(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (line := await asyncio.to_thread(next, lines, None)) is not None:
        yield line


async def _next(stream: AsyncIterator[Item]) -> Item:
    return await anext(stream)


async def _close(stream: AsyncIterator[Item]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
