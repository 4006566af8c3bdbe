"""A worker without its outside: time that the test moves, dials that the test answers, transports that only remember.

Connections, sockets, outbox and limiter are the real ones; what is faked is the loop's clock, the network and the service.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from mooring.bounds import RedialLimits
from mooring.connection.host import CodeFailed
from mooring.connection.kept import KeptConnection
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import Kind
from mooring.link.messages import Events, Reconnect, Report, WorkerSettings, report_decoder
from mooring.link.outbox import Outbox
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring.metrics import WorkerMetrics
from mooring.options import ConnectionRequest, effective
from mooring.process.redialling import Redialling
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
    """As `asyncio.timeout`, by the clock of the running `Task`."""

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


class Dialler:
    """Makes `Dial`s."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.dials: list[Dial] = []

    async def dial(self, options: Any) -> Dialled:
        made = Dial(self._loop, options.url)
        self.dials.append(made)
        return await made


class World:
    """The worker. It is the `Host` of its connections.

    Attributes:
        events: What is recorded: (connection, kind, ``$2``), in order; `seqs` beside them.
        updates: The latest record of each connection, by id.
        answers: What requests were answered.
        renewals: The runs of code that gives fresh values.
    """

    def __init__(self, limits: RedialLimits | None = None) -> None:
        self.loop: Any = Loop()
        self.settings = WorkerSettings(
            worker="w", incarnation="i", secret="", socket_path="", log_file="", exit_record=""
        )
        self.metrics = WorkerMetrics()
        self.outbox = Outbox(2**26, self._take, lambda: None)
        self.paused: set[Any] = set()
        self.ticks: Any = self.loop  # exact
        self.dialler: Any = Dialler(self.loop)
        self.redials = Redialling(self.loop, limits or RedialLimits())
        self.mailbox: Any = None
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.seqs: list[tuple[int, int]] = []
        self.created: dict[int, ConnectionCreated] = {}
        self.updates: dict[int, ConnectionUpdate] = {}
        self.answers: list[Report] = []
        self.forgotten: list[int] = []
        self.renewals: list[Renewal] = []
        self._next_id = 0

    def _take(self, data: bytes) -> bool:
        report = report_decoder.decode(data[4:])
        assert isinstance(report, Events), "the outbox sends nothing else"
        for one in report.created:
            self.created[one.id] = one
        for update in report.updates:
            self.updates[update.id] = update
        for body in report.bodies.split(b"\n") if report.kinds else ():
            event = json.loads(b"{" + body)
            self.events.append((event["connection"], event["kind"], event["event"]))
            self.seqs.append((event["connection"], event["seq"]))
        self.loop.call_soon(self.outbox.stored, report.number)
        return True

    # The host of connections.

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        return Task(self.loop, work)

    def wake(self) -> None:
        self.loop.call_soon(self.outbox.flush)

    def flush(self) -> int:
        self.outbox.flush()
        return self.outbox.number

    def touch(self, connection: Any) -> None:
        self.outbox.touch(connection)
        self.wake()

    def figures_changed(self, connection: Any) -> None:
        pass

    def answer(self, report: Report) -> None:
        self.answers.append(report)

    def answer_send(self, answer: Any, key: str | None) -> None:
        self.answers.append(answer)

    def run_code(self, connection: Any, callback: str, target: Any, params: Any, *first: Any) -> Any:
        assert callback == "renew", "nothing else is code here"
        self.renewals.append(Renewal(self.loop))
        return self.renewals[-1]

    def release(self, connection: Any, size: int) -> None:
        pass

    def forget(self, connection: Any) -> None:
        self.forgotten.append(connection.id)

    # What tests do.

    def open(
        self, url: str = "ws://a.test/", *, request: int = 0, resumed: ConnectionUpdate | None = None, **options: Any
    ) -> KeptConnection:
        """Open a kept connection; `options` as in the create body's Python names."""
        asked = ConnectionRequest(url=url, **{"reconnect": True, "ping_interval": 0, **options})
        self._next_id += 1
        number = self._next_id if resumed is None else resumed.id
        created = ConnectionCreated.of(number, "w", None, 1_700_000_000_000_000, effective(asked))
        connection = KeptConnection(self, created, effective(asked), None, resumed, asked)  # type: ignore[arg-type]  # the host
        connection.dial(request)
        self.loop.advance()
        return connection

    def ready(self, **options: Any) -> tuple[KeptConnection, Transport]:
        """Open a kept connection, and accept it."""
        connection = self.open(**options)
        transport = self.dialler.dials[-1].accept()
        self.loop.advance()
        assert connection.state.value == "Connected"
        return connection, transport

    def order(self, connection: KeptConnection, request: int = 0, **order: Any) -> None:
        connection.reconnect(Reconnect(request, connection.id, **order))

    def next_dial(self, within_s: float = 3600.0) -> Dial:
        """Move the clock until there is a further dial, and return it."""
        count = len(self.dialler.dials)
        until = self.loop.now + within_s
        while len(self.dialler.dials) == count:
            at = self.loop._heap[0][0] if self.loop._heap else until
            assert at <= until and self.loop.now < until, f"no dial within {within_s} s"
            self.loop.run_to(max(at, self.loop.now))
        found: Dial = self.dialler.dials[count]
        return found

    def kinds(self, connection: KeptConnection | None = None) -> list[str]:
        """Return the kinds of what was recorded, in order."""
        self.loop.advance()
        return [kind for number, kind, _ in self.events if connection is None or number == connection.id]

    def event(self, kind: Kind | str) -> dict[str, Any]:
        """Return the last event of a kind."""
        self.loop.advance()
        return [event for _, name, event in self.events if name == str(getattr(kind, "name", kind))][-1]

    def dense(self) -> bool:
        """Say whether the numbers of each connection's events count up from 1."""
        seen: dict[int, int] = {}
        for connection, seq in self.seqs:
            if seq != seen.get(connection, 0) + 1:
                return False
            seen[connection] = seq
        return True
