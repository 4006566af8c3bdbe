"""The context: callbacks and calls run, one at a time, as the mailbox gives them, in the one thread that is theirs.

The thread has an asyncio loop of its own (`thread.py`), so that ``async def`` callbacks are awaited to their end before the
next item begins. Nothing here touches a socket. What callbacks and calls raise is caught in this module and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any, assert_never

import msgspec

from mooring.connection.conversion import filled_body, message_body
from mooring.connection.kept import KeptConnection
from mooring.errors import HandlerError
from mooring.events import Kind, MessageEvent, encode_event, now_us
from mooring.link.messages import Call, Called, CallFailed
from mooring.log_lines import running_connection
from mooring.parameters import MAX_RESULT_BYTES
from mooring.usercode import handlers
from mooring.usercode.calls import Calls
from mooring.usercode.host import CodeHost
from mooring.usercode.mailbox import Entry, Lifecycle, Mailbox, Messages, Task
from mooring.usercode.running import Running
from mooring.usercode.thread import LoopThread

FILLING = frozenset({Kind.onOpen, Kind.onReconnect})
"""The callbacks in which a kept connection may be filled (`WebSocket.fill`)."""
SLICE_ITEMS = 200
"""After so many messages of one read the loop's other tasks (those that user code started) get their turn: a read can hold
thousands of small ones, and callbacks that never await would keep them all waiting."""


class Context:
    """Where user code of a worker runs, and the mailbox that it empties.

    Attributes:
        mailbox: What waits; the I/O loop puts in.
        running: The item under way.
        discarded: How many messages and calls were dropped, after `discard`.
        thread: Where it all runs.
    """

    def __init__(self, host: CodeHost, max_items: int, max_bytes: int) -> None:
        self._host = host
        self.thread = LoopThread(self._run, self._loop_ended, host.post)
        self.mailbox = Mailbox(max_items, max_bytes, self.thread.wake)
        self._discarding = False
        self._finish = False
        self._waits_for_room = False
        self.discarded = 0
        self.running = Running(host)
        self._calls = Calls(host)

    # For the I/O loop.

    def post_task(self, name: str, run: Callable[[], Awaitable[None] | None]) -> None:
        """Queue work of mooring itself that runs user code; neither `run` nor what it returns to be awaited may raise."""
        self.mailbox.post_task(Task(name, run))

    def discard(self) -> None:
        """From now on messages and calls are discarded (and counted); what remains are the ends of connections."""
        self._discarding = True

    def finish(self) -> None:
        """End the thread once the mailbox is empty."""
        self._finish = True
        self.thread.wake()

    def wake_again(self) -> None:
        """Wake the thread if anything waits for it. Now and then: an exception that is set into the thread from outside (as
        libraries for timeouts do) while it is idle costs whatever runs first, and that is its wake-up.
        """
        if self.mailbox.entries or self._waits_for_room:
            self.thread.wake()

    # In the thread.

    def _loop_ended(self, exc: BaseException) -> None:
        self.running.raised(None, "a task", exc)

    async def _run(self) -> None:
        # Ends when `finish` was called and the mailbox is empty. Cancelled only when user code has ended the loop;
        # whatever is under way then goes back into the mailbox.
        self.thread.begin_loop()
        mailbox, entries = self.mailbox, self.mailbox.entries
        mailbox.idle = False
        while True:
            while entries:
                if self._host.outbox.full:
                    await self._wait_for_room()
                entry = entries.popleft()
                await self._take(entry)
                if self._host.paused:
                    self._resume_after(entry)
                await asyncio.sleep(0)
            if self._finish:
                return
            mailbox.idle = True
            if entries:  # posted between the loop and the flag
                mailbox.idle = False
                continue
            await self.thread.idle()
            mailbox.idle = False

    def _resume_after(self, entry: Entry) -> None:
        # One look for an item. At all who wait only when the whole mailbox may be what they have waited for.
        if self.mailbox.has_room_again():
            self._host.post(self._host.resume_paused)
        elif isinstance(entry, Messages):
            self._host.post(self._host.resume, entry.connection)

    async def _take(self, entry: Entry) -> None:
        running_connection.set(entry.connection.id if isinstance(entry, Messages | Lifecycle) else None)
        match entry:
            case Messages():
                await self._take_messages(entry)
            case Lifecycle():
                self.mailbox.taken += 1
                await self._take_lifecycle(entry)
            case Call():
                self.mailbox.took_call(entry)
                try:
                    if self._discarding:
                        self.discarded += 1
                        self._calls.discarded(entry)
                    else:
                        await self._take_call(entry)
                finally:
                    self.mailbox.calls_ended += 1
            case Task():
                self.mailbox.taken += 1
                self.running.begin(entry.name)
                work = entry.run()
                if work is not None:
                    await work
                self.running.item = None
                await self._go_on(_current_task())
            case _:
                assert_never(entry)

    async def _take_messages(self, entry: Messages) -> None:
        connection = entry.connection
        handler = connection.handler
        name = f"{connection.created.handler or handlers.class_name(handler)}.on_message"
        outbox, wake = self._host.outbox, self._host.wake
        mailbox = self.mailbox
        prefix, data_type, filled = connection.message_prefix, connection.options.data_type, entry.filled
        acks = connection.acks
        task = _current_task()
        done = time_us = 0
        try:
            for data, payload in entry.items:
                if outbox.full and not self._discarding:
                    await self._wait_for_room()
                done += 1
                mailbox.taken += 1
                mailbox.taken_bytes += len(payload)
                connection.taken += 1
                connection.taken_bytes += len(payload)
                if self._discarding:
                    self.discarded += 1
                    continue
                connection.seq += 1
                time_us = now_us()
                body = message_body(prefix, connection.seq, time_us, data_type, data, payload)
                if filled:
                    body = filled_body(body)
                outbox.add(connection, b"\x02", body, connection.seq)
                if acks is not None and not filled:
                    acks.recorded(connection.taken, connection.seq)
                wake()
                try:
                    callback = getattr(handler, "on_message", None)  # a property is user code too
                    if callback is not None:
                        self.running.begin(name)
                        result = callback(
                            connection.websocket, MessageEvent(data, filled=True) if filled else MessageEvent(data)
                        )
                        if result is not None:
                            await _finish(result)
                # The law of callbacks, 5: whatever it raises (SystemExit, KeyboardInterrupt too) is an event.
                except BaseException as exc:  # noqa: BLE001 - user code
                    self.running.raised(connection, "on_message", exc)
                self.running.end()
                if task.cancelling():
                    await self._go_on(task)
                if not done % SLICE_ITEMS:
                    await asyncio.sleep(0)
        except BaseException:
            mailbox.entries.appendleft(Messages(connection, entry.items[done:], filled))
            raise
        if done and not filled and not self._discarding:
            connection.recorded_to = (connection.seq, time_us)

    async def _take_lifecycle(self, entry: Lifecycle) -> None:
        connection = entry.connection
        connection.record(self._host.outbox, entry.kind, encode_event(entry.event))
        self._host.wake()
        attribute = handlers.CALLBACKS[entry.kind]
        fill = connection.begin_fill() if entry.kind in FILLING and isinstance(connection, KeptConnection) else None
        try:
            callback = getattr(connection.handler, attribute, None)
            if callback is None and entry.kind is Kind.onReconnect:
                attribute = "on_open"  # a handler that subscribes there does so again
                callback = getattr(connection.handler, attribute, None)
            if callback is not None:
                handler = connection.created.handler or handlers.class_name(connection.handler)
                self.running.begin(f"{handler}.{attribute}")
                result = callback(connection.websocket, entry.event)
                if result is not None:
                    await _finish(result)
        # As above.
        except BaseException as exc:  # noqa: BLE001 - user code
            self.running.raised(connection, attribute, exc)
        self.running.end()
        if fill is not None:
            self.mailbox.put_first(connection, fill.end())
            if isinstance(connection, KeptConnection):
                self._host.post(connection.greeted)
        if entry.kind is Kind.onTerminate:
            self._host.outbox.add(connection, b"", b"", connection.seq, ended=True)
            self._host.wake()
        await self._go_on(_current_task())

    async def _take_call(self, call: Call) -> None:
        if self._calls.repeated(call):
            return
        self.running.begin(call.name)
        answer: Called | CallFailed
        try:
            function = handlers.load(call.reference)
            params = call.params
            result = function(**params) if isinstance(params, dict) else function(*params)
            if inspect.isawaitable(result):
                result = await result
            encoded = msgspec.json.encode(result)
            if len(encoded) > MAX_RESULT_BYTES:
                raise ValueError(f"the result is {len(encoded)} bytes of JSON; at most {MAX_RESULT_BYTES} are allowed")
            answer = Called(call.request, encoded)
        except HandlerError as exc:
            answer = CallFailed(call.request, "HandlerError", handlers.message_of(exc), "", invalid=True)
        # As above: the caller is told, or an event says so.
        except BaseException as exc:  # noqa: BLE001 - user code
            self.running.errors += 1
            answer = CallFailed(
                call.request, handlers.exception_name(exc), handlers.message_of(exc), handlers.format_traceback(exc)
            )
        self.running.end()
        self._calls.done(call, answer)
        await self._go_on(_current_task())

    async def _go_on(self, task: asyncio.Task[Any]) -> None:
        """Shrug off a cancellation by the callback that has just run (it was its error, nothing more).

        `uncancel` takes the count back, but (up to Python 3.12) not the exception that is still to be thrown in: the
        `sleep` is where that one comes. From 3.13 on it takes both, and the `sleep` only costs a pass of the loop.

        Raises:
            asyncio.CancelledError: If user code has ended the loop instead, and the runner cancels everything.
        """
        while task.cancelling():
            if self.thread.loop_ends:
                raise asyncio.CancelledError
            task.uncancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        # The outbox is emptied by the journal's acknowledgements: a stalled disk stalls callbacks, and loses nothing.
        self._waits_for_room = True
        try:
            while self._host.outbox.full and not self._finish:
                await self.thread.idle()  # `full` promises that somebody says when there is room
        finally:
            self._waits_for_room = False


async def _finish(result: object) -> None:
    """Await what a callback has returned, if it was an ``async def``."""
    if inspect.isawaitable(result):
        await result
    elif isinstance(result, GeneratorType | AsyncGeneratorType):  # a decorator has hidden it from `handlers.check`
        raise TypeError("a callback that is a generator (it has a `yield`): nothing of it has run")


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "the context runs in a task"
    return task
