"""The client of the REST API for code that is not asynchronous: `Client` on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mooring_api.async_client import Client, ConnectionPage, Event, Page, Result
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord


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

    def open(self, url: str, **options: Any) -> ConnectionRecord:
        """See `Client.open`."""
        return self._run(self._client.open(url, **options))

    def connections(self, **options: Any) -> ConnectionPage:
        """See `Client.connections`."""
        return self._run(self._client.connections(**options))

    def connection(self, connection: int) -> ConnectionRecord:
        """See `Client.connection`."""
        return self._run(self._client.connection(connection))

    def send(self, connection: int, message: str | bytes | dict[str, Any] | list[Any], **options: Any) -> SentRecord:
        """See `Client.send`."""
        return self._run(self._client.send(connection, message, **options))

    def terminate(self, connection: int, code: int | None = None, reason: str | None = None) -> ConnectionRecord:
        """See `Client.terminate`."""
        return self._run(self._client.terminate(connection, code, reason))

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

    def call(self, worker: str, function: str, params: dict[str, Any] | list[Any] | None = None, **options: Any) -> Any:
        """See `Client.call`."""
        return self._run(self._client.call(worker, function, params, **options))

    def page(self, **options: Any) -> Page:
        """See `Client.page`."""
        return self._run(self._client.page(**options))

    def events(self, **options: Any) -> Iterator[Event]:
        """See `Client.events`."""
        stream = self._client.events(**options)
        try:
            while True:
                try:
                    yield self._run(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            self._run(_close(stream))


async def _next(stream: AsyncIterator[Event]) -> Event:
    return await anext(stream)


async def _close(stream: AsyncIterator[Event]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
