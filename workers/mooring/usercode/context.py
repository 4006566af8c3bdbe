"""The context: the mailbox of a worker, and the one thread in which callbacks and calls run, one at a time.

The thread has an asyncio loop of its own, so that ``async def`` callbacks are awaited to their end before the next
item begins. Nothing here touches a socket. An exception of user code is caught in this module and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from mooring.errors import HandlerError
from mooring.events import (
    KINDS,
    CallbackErrorEvent,
    ErrorEvent,
    Kind,
    MessageEvent,
    OpenEvent,
    TerminateEvent,
    encode_event,
    now_us,
    worker_body,
)
from mooring.link.messages import Call, Called, CallFailed
from mooring.log_lines import running_connection
from mooring.parameters import MAX_RESULT_BYTES
from mooring.usercode import handlers

if TYPE_CHECKING:
    from mooring.connection.connection import Connection
    from mooring.process.runtime import Runtime

CALLBACKS = {kind: info.callback for kind, info in KINDS.items() if info.callback}
CALL_COST_BYTES = 1024  # what a call counts for in the mailbox's bound, besides its parameters
_pack = msgspec.msgpack.Encoder().encode
SLICE_ITEMS = 200  # after so many items the loop's other tasks (those that user code started) get their turn

log = logging.getLogger("mooring.context")


class _Messages(msgspec.Struct, frozen=True):
    """The messages of one read: ``(data, payload)`` each."""

    connection: Any
    items: list[tuple[Any, bytes]]


class _Lifecycle(msgspec.Struct, frozen=True):
    """An ``onOpen``, ``onError`` or ``onTerminate``."""

    connection: Any
    kind: Kind
    event: OpenEvent | ErrorEvent | TerminateEvent


class _Task(msgspec.Struct, frozen=True):
    """Work of mooring itself that must run where user code runs (making a handler)."""

    name: str
    run: Callable[[], None]


_Entry = _Messages | _Lifecycle | _Task | Call


class Context:
    """The mailbox and its thread.

    Attributes:
        running: Name and begin (monotonic seconds) of the item under way, or None.
        callback_errors: How many items have raised.
        emptied: True once the last item has run, after `finish`.
    """

    def __init__(self, runtime: Runtime, max_items: int, max_bytes: int) -> None:
        self._runtime = runtime
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._mailbox: deque[_Entry] = deque()
        # What was put in is counted by the I/O loop, what was taken by the context: two writers never share a counter.
        self._put = self._taken = 0
        self._put_bytes = self._taken_bytes = 0
        self._calls_put = self._calls_taken = 0
        self._calls_put_bytes = self._calls_taken_bytes = 0
        self._idle = False
        self._discarding = False
        self._finish = False
        self._loop_ends = False  # the runner cancels what is left
        self.discarded = 0
        self.emptied = False
        self._thread = threading.Thread(target=self._main, name="mooring-context", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._ready = threading.Event()
        self.running: tuple[str, float] | None = None
        self.callback_errors = 0
        self.observe: Callable[[float], None] | None = None  # gets each item's seconds
        self._answers: dict[str, Called | CallFailed] = {}

    @property
    def length(self) -> int:
        """Items waiting."""
        return self._put - self._taken

    @property
    def length_bytes(self) -> int:
        """Payload bytes waiting."""
        return self._put_bytes - self._taken_bytes

    @property
    def full(self) -> bool:
        """True when the sockets that feed the mailbox must wait."""
        return self.length >= self._max_items or self.length_bytes >= self._max_bytes

    @property
    def full_of_calls(self) -> bool:
        """True when a further call is refused. Messages do not count: a flood must not shut out who would end it."""
        return (
            self._calls_put - self._calls_taken >= self._max_items
            or self._calls_put_bytes - self._calls_taken_bytes >= self._max_bytes
        )

    # ------------------------------------------------------------ putting in (I/O loop)

    def post(self, connection: Connection, kind: Kind, event: Any) -> None:
        """Queue the callback of an ``onOpen``, ``onError`` or ``onTerminate``."""
        self._put += 1
        self._append(_Lifecycle(connection, kind, event))

    def post_messages(self, connection: Connection, items: list[tuple[Any, bytes]], size: int) -> None:
        """Queue the callbacks of the messages of one read."""
        connection.posted += len(items)
        connection.posted_bytes += size
        self._put += len(items)
        self._put_bytes += size
        self._append(_Messages(connection, items))

    def post_call(self, call: Call) -> None:
        """Queue a call."""
        size = _call_bytes(call)
        self._put += 1
        self._put_bytes += size
        self._calls_put += 1
        self._calls_put_bytes += size
        self._append(call)

    def refuse_call(self, call: Call) -> None:
        """The mailbox is full: who waits for the call is told, otherwise an event says so."""
        message = f"the mailbox of worker {self._runtime.worker} is full"
        if call.request:
            self._runtime.answer(CallFailed(call.request, "", message, "", full=True))
        else:
            error = CallbackErrorEvent(callback=call.name, exception="MailboxFull", message=message, traceback="")
            self._record(None, error)

    def post_task(self, name: str, run: Callable[[], None]) -> None:
        """Queue work of mooring itself that runs user code; `run` must not raise."""
        self._put += 1
        self._append(_Task(name, run))

    def _append(self, entry: _Entry) -> None:
        self._mailbox.append(entry)
        if self._idle:
            self._idle = False
            self._wake_up()

    def _wake_up(self) -> None:
        if self._loop is not None and self._wake is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                pass  # user code has ended the loop: the next one looks into the mailbox first

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._ready.wait()

    def discard(self) -> None:
        """From now on messages and calls are discarded (and counted); what remains are the ends of connections."""
        self._discarding = True

    def finish(self) -> None:
        """End the thread once the mailbox is empty. `join` waits for it."""
        self._finish = True
        self._wake_up()

    @property
    def alive(self) -> bool:
        """True until the thread has ended."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; say whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------ the thread

    def _main(self) -> None:
        while True:
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    self._loop_ends = False
                    try:
                        runner.run(self._run())
                        self.emptied = True  # before the runner waits for what user code has left behind
                    finally:
                        self._loop_ends = True
                return
            # A task that user code started has called sys.exit, or stopped the loop: it gets a new loop.
            except BaseException as exc:  # noqa: BLE001 - user code
                self._report(None, "a task", exc)
                if self.emptied:
                    return

    async def _run(self) -> None:
        # Ends when `finish` was called and the mailbox is empty. Cancelled only when user code has ended the loop;
        # whatever is under way then goes back into the mailbox.
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._idle = False
        self._ready.set()
        mailbox = self._mailbox
        while True:
            while mailbox:
                if self._runtime.outbox.full:
                    await self._wait_for_room()
                entry = mailbox.popleft()
                await self._take(entry)
                if self._runtime.paused:
                    self._runtime.post(self._runtime.resume_paused)
                await asyncio.sleep(0)
            if self._finish:
                return
            self._idle = True
            if mailbox:  # posted between the loop and the flag
                self._idle = False
                continue
            await self._wake.wait()
            self._wake.clear()
            self._idle = False

    async def _take(self, entry: _Entry) -> None:
        running_connection.set(entry.connection.id if isinstance(entry, _Messages | _Lifecycle) else None)
        match entry:
            case _Messages():
                await self._take_messages(entry)
            case _Lifecycle():
                self._taken += 1
                await self._take_lifecycle(entry)
            case Call():
                self._taken += 1
                size = _call_bytes(entry)
                self._taken_bytes += size
                self._calls_taken += 1
                self._calls_taken_bytes += size
                if self._discarding:
                    self.discarded += 1
                    self._answer(CallFailed(entry.request, "", "the worker is being killed", "", discarded=True))
                else:
                    await self._take_call(entry)
            case _Task():
                self._taken += 1
                self._begin(entry.name)
                entry.run()
                self.running = None

    async def _take_messages(self, entry: _Messages) -> None:
        connection = entry.connection
        handler = connection.handler
        name = f"{connection.created.handler or type(handler).__name__}.on_message"
        outbox, wake = self._runtime.outbox, self._runtime.wake
        message_bytes = self._runtime.message_bytes
        task = _current_task()
        done = 0
        try:
            for data, payload in entry.items:
                if outbox.full and not self._discarding:
                    await self._wait_for_room()
                done += 1
                self._taken += 1
                self._taken_bytes += len(payload)
                connection.taken += 1
                connection.taken_bytes += len(payload)
                if self._discarding:
                    self.discarded += 1
                    continue
                connection.seq += 1
                outbox.add(connection, b"\x02", message_bytes(connection, data, payload), connection.seq)
                wake()
                try:
                    callback = getattr(handler, "on_message", None)  # a property is user code too
                    if callback is not None:
                        self._begin(name)
                        result = callback(connection.websocket, MessageEvent(data))
                        if result is not None and inspect.isawaitable(result):
                            await result
                # The law of callbacks, 5: whatever it raises (SystemExit, KeyboardInterrupt too) is an event.
                except BaseException as exc:  # noqa: BLE001 - user code
                    self._report(connection, "on_message", exc)
                self._end()
                if task.cancelling():
                    await self._go_on(task)
                if not done % SLICE_ITEMS:
                    await asyncio.sleep(0)
        except BaseException:
            self._mailbox.appendleft(_Messages(connection, entry.items[done:]))
            raise

    async def _take_lifecycle(self, entry: _Lifecycle) -> None:
        connection = entry.connection
        connection.record(entry.kind, encode_event(entry.event))
        attribute = CALLBACKS[entry.kind]
        try:
            callback = getattr(connection.handler, attribute, None)
            if callback is not None:
                self._begin(f"{connection.created.handler or type(connection.handler).__name__}.{attribute}")
                result = callback(connection.websocket, entry.event)
                if result is not None and inspect.isawaitable(result):
                    await result
        # As above.
        except BaseException as exc:  # noqa: BLE001 - user code
            self._report(connection, attribute, exc)
        self._end()
        if entry.kind is Kind.onTerminate:
            self._runtime.outbox.add(connection, b"", b"", connection.seq, ended=True)
            self._runtime.wake()
        await self._go_on(_current_task())

    async def _take_call(self, call: Call) -> None:
        if call.key is not None and call.key in self._answers:
            # Asked again after a crash of the service: the function has run, and runs once.
            self._answer(msgspec.structs.replace(self._answers[call.key], request=call.request))
            return
        self._begin(call.name)
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
            answer = CallFailed(call.request, "HandlerError", str(exc), "", invalid=True)
        # As above: the caller is told, or an event says so.
        except BaseException as exc:  # noqa: BLE001 - user code
            self.callback_errors += 1
            answer = CallFailed(
                call.request, type(exc).__qualname__, handlers.message_of(exc), handlers.format_traceback(exc)
            )
        self._end()
        if call.key is not None:
            self._remember(call.key, answer)
        if call.request:
            self._answer(answer)
        if isinstance(answer, CallFailed):
            error = CallbackErrorEvent(
                callback=call.name, exception=answer.exception, message=answer.message, traceback=answer.traceback
            )
            self._log(None, error)
            if not call.request:
                self._record(None, error)
        await self._go_on(_current_task())

    def _remember(self, key: str, answer: Called | CallFailed) -> None:
        self._answers[key] = answer
        while len(self._answers) > 1_000:
            del self._answers[next(iter(self._answers))]

    async def _go_on(self, task: asyncio.Task[Any]) -> None:
        """Shrug off a cancellation by the callback that has just run (it was its error, nothing more).

        Raises:
            asyncio.CancelledError: If user code has ended the loop instead, and the runner cancels everything.
        """
        while task.cancelling():
            if self._loop_ends:
                raise asyncio.CancelledError
            task.uncancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # one that was not delivered yet comes here

    async def _wait_for_room(self) -> None:
        # The outbox is emptied by the journal's acknowledgements: a stalled disk stalls callbacks, and loses nothing.
        while self._runtime.outbox.full and not self._finish:
            await asyncio.sleep(0.005)

    def _begin(self, name: str) -> None:
        self.running = (name, time.monotonic())

    def _end(self) -> None:
        running, self.running = self.running, None
        if self.observe is not None and running is not None:
            self.observe(time.monotonic() - running[1])

    def _answer(self, answer: Called | CallFailed) -> None:
        if answer.request:
            self._runtime.post(self._runtime.answer_call, answer)

    def _report(self, connection: Connection | None, callback: str, exc: BaseException) -> None:
        self.callback_errors += 1
        error = CallbackErrorEvent(
            callback=callback,
            exception=type(exc).__qualname__,
            message=handlers.message_of(exc),
            traceback=handlers.format_traceback(exc),
        )
        self._log(connection, error)
        self._record(connection, error)

    def _record(self, connection: Connection | None, error: CallbackErrorEvent) -> None:
        if connection is not None:
            connection.record(Kind.callbackError, encode_event(error))
            return
        body = worker_body(Kind.callbackError, self._runtime.worker, now_us(), error)
        self._runtime.outbox.add(self._runtime.nobody, bytes((Kind.callbackError,)), body, 0)
        self._runtime.wake()

    @staticmethod
    def _log(connection: Connection | None, error: CallbackErrorEvent) -> None:
        extra = {"connection": connection and connection.id, "exception": error.traceback.rstrip() or None}
        # User code may have put filters into logging; what they raise must not end the context.
        with contextlib.suppress(Exception):
            log.error("%s has failed: %s: %s", error.callback, error.exception, error.message, extra=extra)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "the context runs in a task"
    return task


def _call_bytes(call: Call) -> int:
    return CALL_COST_BYTES + len(_pack(call.params))
