"""The thread of user code: its event loops, one after the other, how it is woken, and that its end is seen.

User code shares the thread, and may end its loop: then it gets another one. What ends the thread itself is not to be expected;
a worker without it would be deaf, so the worker ends too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

log = logging.getLogger("mooring.worker")


class LoopThread:
    """A thread that runs `work` in an event loop, and again in a new one if user code has ended the loop.

    Args:
        work: What it does. When it returns, the thread is to end; it calls `begin_loop` first.
        raised: Told, in the thread, what has ended a loop.
        post: Has a function run on the I/O loop.

    Attributes:
        loop_ends: True once a loop is ending, and what is left in it is cancelled.
        emptied: Set, for the I/O loop, once `work` has returned; what user code has left behind may still run.
        ended: Set, for the I/O loop, once the thread has ended, asked or not.
    """

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        raised: Callable[[BaseException], None],
        post: Callable[[Callable[[], object]], None],
    ) -> None:
        self._work = work
        self._raised = raised
        self._post = post
        self._thread = threading.Thread(target=self._main, name="mooring-context", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Not an asyncio.Event: one whose `set` is interrupted (an exception can be set into a thread from outside) is set, has
        # woken nobody, and will wake nobody.
        self._waiter: asyncio.Future[None] | None = None
        self.loop_ends = False
        self.emptied = asyncio.Event()
        self.ended = asyncio.Event()

    def start(self) -> None:
        """Start the thread, and wait until it works."""
        self._thread.start()
        self._ready.wait()

    def wake(self) -> None:
        """Have `idle` return, if the thread is in it; no wake-up is kept. For any thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._woken)
            except RuntimeError:
                pass  # user code has ended the loop: in the next one it looks before it is idle

    def begin_loop(self) -> None:
        """In the thread: the running loop is the one to be woken."""
        self._waiter = None
        self._loop = asyncio.get_running_loop()
        self._ready.set()

    async def idle(self) -> None:
        """In the thread: wait until it is woken."""
        assert self._loop is not None, "begin_loop comes first"
        self._waiter = self._loop.create_future()
        await self._waiter

    def _woken(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _main(self) -> None:
        try:
            self._run_loops()
        # The top of the thread: what cannot even be reported ends it, and with it the worker.
        except BaseException:
            log.exception("the thread of callbacks ends")
        finally:
            self._post(self._end)
            self._ready.set()

    def _end(self) -> None:
        self.emptied.set()
        self.ended.set()

    def _run_loops(self) -> None:
        returned = False
        while not returned:
            loop = uvloop.new_event_loop()  # without one (no descriptor is left) the thread ends
            try:
                with asyncio.Runner(loop_factory=_given(loop)) as runner:
                    self.loop_ends = False
                    try:
                        runner.run(self._work())
                        returned = True  # before the runner waits for what user code has left behind
                        self._post(self.emptied.set)
                    finally:
                        self.loop_ends = True
            # A task that user code started has called sys.exit, or stopped the loop: it gets a new loop.
            except BaseException as exc:  # noqa: BLE001 - user code
                self._raised(exc)


def _given(loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.AbstractEventLoop]:
    return lambda: loop
