"""A worker without its outside: time that the test moves, dials that the test answers, transports that only remember.

Connections, sockets, outbox and limiter are the real ones; what is faked is the loop's clock, the network and the service.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from mooring.bounds import RedialLimits
from mooring.connection.kept import KeptConnection
from mooring.events import Kind
from mooring.link.messages import Events, Reconnect, Report, WorkerSettings, report_decoder
from mooring.link.outbox import Outbox
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring.metrics import WorkerMetrics
from mooring.options import ConnectionRequest, effective
from mooring.process.redialling import Redialling
from mooring.wire.dial import Dialled
from tests.workers.connection.standing_loop import Dial, Loop, Renewal, Task, Transport


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
        renewals: The runs of code that gives fresh values; `catch_ups`: of code that fetches what was missed.
        failures: What went wrong with code, by its callback.
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
        self.catch_ups: list[Renewal] = []
        self.failures: list[tuple[str, BaseException]] = []
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

    touch_later = touch

    def figures_changed(self, connection: Any) -> None:
        pass

    def waits(self, connection: Any) -> None:
        pass

    def answer(self, report: Report) -> None:
        self.answers.append(report)

    def answer_behind(self, made: Callable[[int], Report]) -> None:
        self.answers.append(made(self.flush()))

    def answer_send(self, answer: Any, key: str | None) -> None:
        self.answers.append(answer)

    def run_code(self, connection: Any, callback: str, target: Any, params: Any, *first: Any) -> Any:
        runs = {"renew": self.renewals, "catchUp": self.catch_ups}[callback]
        runs.append(Renewal(self.loop))
        return runs[-1]

    def tell_failure(self, connection: Any, callback: str, exc: BaseException) -> None:
        self.failures.append((callback, exc))

    def release(self, connection: Any, size: int) -> None:
        pass

    def attend(self, connection: Any) -> None:
        """Nothing rests here."""

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
