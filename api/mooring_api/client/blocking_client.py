"""The client of the REST API for code that is not asynchronous: `Client` on a thread of its own.

No verb is written twice: each is made of that of `Client`, with its arguments, types and docstring.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from mooring_api.client.async_client import Client

CANCEL_S = 5.0  # what was interrupted has so long to end

Args = ParamSpec("Args")
Result = TypeVar("Result")
Item = TypeVar("Item")


def blocking(
    verb: Callable[Concatenate[Client, Args], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[BlockingClient, Args], Result]:
    """Return a verb of `Client` as one that waits for its result."""

    @functools.wraps(verb)
    def call(self: BlockingClient, /, *args: Args.args, **kwargs: Args.kwargs) -> Result:
        return self._run(verb(self._client, *args, **kwargs))

    return call


def iterating(
    verb: Callable[Concatenate[Client, Args], AsyncIterator[Item]],
) -> Callable[Concatenate[BlockingClient, Args], Iterator[Item]]:
    """Return a verb of `Client` that yields as one that waits for each item."""

    @functools.wraps(verb)
    def call(self: BlockingClient, /, *args: Args.args, **kwargs: Args.kwargs) -> Iterator[Item]:
        return self._iterate(verb(self._client, *args, **kwargs))

    return call


class BlockingClient:
    """One service, for code that is not asynchronous. Use it as ``with BlockingClient(…) as client``.

    Its verbs are those of `Client`, and block. What interrupts the waiting (Ctrl-C, an exception of a signal's handler)
    is raised where the caller waits, once the request has been given up.

    Raises:
        RuntimeError: If a verb is used outside of the ``with``, or in a child process of a fork.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        state_dir: Path | None = None,
        ssl: Any = True,
    ) -> None:
        self._client = Client(url, token, state_dir=state_dir, ssl=ssl)
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mooring-client", daemon=True)
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._running:
            return  # in the child of a fork: all of it is the parent's
        assert self._thread is not None, "it runs"
        try:
            self._run(self._loop.shutdown_asyncgens())  # streams that nobody has closed
            self._run(self._client.__aexit__(kind, exc, traceback))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    open = blocking(Client.open)
    put = blocking(Client.put)
    change = blocking(Client.change)
    connections = blocking(Client.connections)
    connection = blocking(Client.connection)
    send = blocking(Client.send)
    send_body = blocking(Client.send_body)
    send_lines = blocking(Client.send_lines)
    send_request = blocking(Client.send_request)
    start_request = blocking(Client.start_request)
    drop_queue = blocking(Client.drop_queue)
    terminate = blocking(Client.terminate)
    reconnect = blocking(Client.reconnect)
    workers = blocking(Client.workers)
    cluster = blocking(Client.cluster)
    worker = blocking(Client.worker)
    start_worker = blocking(Client.start_worker)
    kill_worker = blocking(Client.kill_worker)
    drain_worker = blocking(Client.drain_worker)
    call = blocking(Client.call)
    hooks = blocking(Client.hooks)
    hook = blocking(Client.hook)
    set_hook = blocking(Client.set_hook)
    remove_hook = blocking(Client.remove_hook)
    pause_hook = blocking(Client.pause_hook)
    resume_hook = blocking(Client.resume_hook)
    retry_hook = blocking(Client.retry_hook)
    test_hook = blocking(Client.test_hook)
    move_hook = blocking(Client.move_hook)
    skip_hook = blocking(Client.skip_hook)
    add_hook_secret = blocking(Client.add_hook_secret)
    hook_attempts = blocking(Client.hook_attempts)
    page = blocking(Client.page)
    events = iterating(Client.events)
    backup = iterating(Client.backup)

    @property
    def _running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()  # a fork leaves it behind

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` on the client's thread and wait for it; whoever stops waiting has it cancelled, and ended."""
        if not self._running:
            work.close()
            raise RuntimeError("use the client in `with BlockingClient(…) as client`, and make a new one after a fork")
        result: concurrent.futures.Future[Result] = concurrent.futures.Future()
        tasks: list[asyncio.Task[Result]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(ended)

        def give_up() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # it was interrupted before the loop was asked
                work.close()
                result.set_exception(concurrent.futures.CancelledError())

        def ended(task: asyncio.Task[Result]) -> None:
            if task.cancelled():
                result.set_exception(concurrent.futures.CancelledError())
            elif (exc := task.exception()) is not None:
                result.set_exception(exc)
            else:
                result.set_result(task.result())

        try:  # what interrupts may come here, too: it has begun then, and nobody waits
            self._loop.call_soon_threadsafe(begin)
            return result.result()
        except BaseException:
            if not result.done():  # so it is not `work` that has raised: the waiting was interrupted
                self._loop.call_soon_threadsafe(give_up)
                concurrent.futures.wait([result], CANCEL_S)
            raise

    def _iterate(self, stream: AsyncIterator[Item]) -> Iterator[Item]:
        try:
            while True:
                try:
                    yield self._run(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            if self._running:  # a stream may be given up later than the client, which has ended it
                self._run(_close(stream))


async def _next(stream: AsyncIterator[Item]) -> Item:
    return await anext(stream)


async def _close(stream: AsyncIterator[Item]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
