"""A loop without time, and what tasks wait for on it: dials and renewals that the test answers, transports that only remember."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from mooring.connection.host import CodeFailed
from mooring.errors import ErrCode, ErrorEntry
from mooring.wire.dial import DialFailed, Dialled
from tests.servers import frame


class Timer:
    """A handle of `Loop`."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run: Callable[[], object] | None = run

    def cancel(self) -> None:
        self.run = None


class Loop:
    """What of an event loop connections use, on a clock that stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._serial = itertools.count()
        self._heap: list[tuple[float, int, Timer]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, function: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(lambda: function(*args))
        heapq.heappush(self._heap, (at, next(self._serial), timer))
        return timer

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self.now + delay, function, *args)

    def call_soon(self, function: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self.now, function, *args)

    def drop_cancelled(self) -> None:
        """Forget the timers that were cancelled, as asyncio does once they are many."""
        self._heap = [one for one in self._heap if one[2].run is not None]
        heapq.heapify(self._heap)

    def advance(self, seconds: float = 0.0) -> None:
        """Move the clock, and do what is due on the way, in order."""
        self.run_to(self.now + seconds)

    def run_to(self, until: float) -> None:
        """Move the clock to `until`."""
        while self._heap and self._heap[0][0] <= until:
            at, _, timer = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            if timer.run is not None:
                timer.run()
        self.now = until

    @property
    def timers(self) -> int:
        """How many are set."""
        return sum(timer.run is not None for _, _, timer in self._heap)


class Transport:
    """A TCP connection to nobody."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._reading = False
        self._closing = False
        self.protocol: Any = None
        self.written = b""
        self.unflushed = 0

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def get_write_buffer_size(self) -> int:
        return self.unflushed

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.lose(None)

    close = abort

    # What the test does as the server.

    def lose(self, exc: Exception | None) -> None:
        """The TCP connection ends."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(lambda: self.protocol.connection_lost(exc))  # who has it by then

    def say(self, text: str) -> None:
        if not self._closing:
            self.protocol.data_received(frame(1, text.encode()))

    def close_with(self, code: int | None, reason: str = "") -> None:
        if not self._closing:
            payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
            self.protocol.data_received(frame(8, payload))

    @property
    def closed_with(self) -> int | None:
        """The code of the close frame that we have sent."""
        for opcode, payload in self.sent:
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")
        return None

    @property
    def sent(self) -> list[tuple[int, bytes]]:
        """The short frames that we have sent."""
        found, rest = [], self.written
        while rest:
            size = rest[1] & 0x7F
            assert size < 126, "tests send little"
            mask, payload = rest[2:6], rest[6 : 6 + size]
            found.append((rest[0] & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))))
            rest = rest[6 + size :]
        return found


class Awaited:
    """What a task waits for, until the test answers it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.resume: Callable[[], None] | None = None
        self.failure: Exception | None = None
        self.ended = False
        self.cancelled = False

    def _wait(self) -> Generator[Awaited, None, None]:
        if not self.ended:
            yield self
        if self.failure is not None:
            raise self.failure

    def _end(self) -> None:
        self.ended = True
        if self.resume is not None:
            self._loop.call_soon(self.resume)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True


class Renewal(Awaited):
    """One run of the code that gives fresh values."""

    value: Any = None

    def __await__(self) -> Generator[Awaited, None, Any]:
        yield from self._wait()
        return self.value

    def give(self, value: Any) -> None:
        self.value = value
        self._end()

    def fail(self) -> None:
        self.failure = CodeFailed("the vault is closed")
        self._end()


class Dial(Awaited):
    """One dial."""

    def __init__(self, loop: Loop, url: str) -> None:
        super().__init__(loop)
        self.url = url
        self.began_at = loop.now
        self.transport: Transport | None = None

    def __await__(self) -> Generator[Awaited, None, Dialled]:
        yield from self._wait()
        assert self.transport is not None, "it was accepted"
        return Dialled(self.transport, b"", None, None)  # type: ignore[arg-type]  # a fake of asyncio's

    def cancel(self) -> None:
        super().cancel()
        if self.transport is not None:
            self.transport.abort = lambda: None  # type: ignore[method-assign]  # nobody has it

    def accept(self) -> Transport:
        """Answer 101."""
        self.transport = Transport(self._loop)
        self._end()
        return self.transport

    def fail(
        self, err_code: ErrCode = ErrCode.REFUSED, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """Fail; `err_code` says how."""
        self.failure = DialFailed(
            [ErrorEntry(err_code, f"failed with {err_code.name}")],
            timed_out=err_code is ErrCode.CONNECT_TIMEOUT,
            policy=err_code is ErrCode.POLICY_REFUSED,
            status=status,
            retry_after_s=retry_after_s,
        )
        self._end()


class Task:
    """Runs a coroutine that awaits nothing but dials and renewals, perhaps with a `Timeout`."""

    running: Task | None = None

    def __init__(self, loop: Loop, work: Coroutine[Any, Any, None]) -> None:
        self.loop = loop
        self._work = work
        self._ended = False
        self._waits_for: Awaited | None = None
        loop.call_soon(self._step)

    def _step(self, throw: BaseException | None = None) -> None:
        if self._ended:
            return
        Task.running = self
        try:
            self._waits_for = self._work.send(None) if throw is None else self._work.throw(throw)
            self._waits_for.resume = self._step
        except StopIteration:
            self._ended = True
        finally:
            Task.running = None

    def interrupt(self) -> None:
        """Have what it waits for be cancelled, and tell the task so."""
        assert self._waits_for is not None, "it has begun"
        self._waits_for.resume = None
        self._waits_for.cancel()
        self._step(asyncio.CancelledError())

    def cancel(self) -> None:
        if not self._ended:
            self._ended = True
            self._work.close()
            if self._waits_for is not None:
                self._waits_for.cancel()


class Timeout:
    """As `deadline.within`, by the clock of the running `Task`."""

    def __init__(self, seconds: float) -> None:
        assert Task.running is not None, "a task asks for it"
        self._task = Task.running
        self._seconds = seconds
        self._over = False

    async def __aenter__(self) -> None:
        self._timer = self._task.loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._over = True
        self._task.interrupt()

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        if self._over and kind is asyncio.CancelledError:
            raise TimeoutError from exc
