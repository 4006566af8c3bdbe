"""A fake worker: a real process that only dials the service's socket, while the test says what a worker would say on it.

The service under test runs in the test's own process and starts, watches, adopts and ends the fake as it would a worker: pid,
credentials of the socket, signals and exit are real. What is faked is the hostile or unlucky outside: a worker that is silent,
dies between two frames, or says something that ours never would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from mooring.events import Kind, body_prefix, connection_body
from mooring.link.channel import Channel, frame
from mooring.link.held import HeldConnection, pack
from mooring.link.messages import (
    PROTOCOL_VERSION,
    AskCall,
    AskKill,
    Command,
    Events,
    Hello,
    Probe,
    Report,
    Resent,
    Stats,
    Stop,
    Welcome,
    command_decoder,
)
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring.process import identity
from mooring_service.config import Config, JournalConfig, SupervisorConfig
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Journal
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.service import Service

# It tells the test that it is there, and hands over each link that it dials; SIGUSR1 asks a worker for its stacks.
PROGRAM = """
import json, os, signal, socket, sys
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
settings = json.load(sys.stdin)
control = socket.socket(socket.AF_UNIX)
control.connect(os.environ["FAKE_WORKERS"])
control.sendall(json.dumps([os.getpid(), settings]).encode() + b"\\n")
while control.recv(1):
    link = socket.socket(socket.AF_UNIX)
    link.connect(settings["socket_path"])
    socket.send_fds(control, [b"."], [link.fileno()])
    link.close()
"""
TIMEOUT_S = 60.0  # a deadline, not a figure: the machine may be busy
FUNCTIONS: dict[str, str] = {}  # what requests may call
Wanted = TypeVar("Wanted")


class FakeWorker:
    """One process.

    Attributes:
        settings: What the service has started it with.
        channel: Its last link.
        probed: The numbers of the probes that it was sent.
        stats: What it says of itself when it is asked.
        silent: It answers no probe, and does not end when it is told to.
    """

    def __init__(self, pid: int, settings: dict[str, Any], control: socket.socket) -> None:
        self.pid = pid
        self.settings = settings
        self.name: str = settings["worker"]
        self.probed: list[int] = []
        self.stats = Stats()
        self.silent = False
        self.linked = False
        self._control = control
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self.channel: Channel[Command]
        self._lost = asyncio.Event()
        self._number = 0
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    async def dial(self, *, at_once: Report | None = None) -> None:
        """Make a link; nothing is said on it, but what is to be said `at_once`: the service stands still until that is in its socket."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._control, lambda: readable.done() or readable.set_result(None))
        try:
            await loop.sock_sendall(self._control, b".")
            if at_once is None:
                await asyncio.wait_for(readable, TIMEOUT_S)
        finally:
            loop.remove_reader(self._control)
        self._control.settimeout(TIMEOUT_S)  # our loop is the service's
        _, (descriptor,), _, _ = socket.recv_fds(self._control, 1, 1)
        self._control.setblocking(False)
        link = socket.socket(fileno=descriptor)
        if at_once is not None:
            link.sendall(frame(at_once))
        self._lost.clear()
        self.channel = Channel(command_decoder, self._take, self._on_lost)
        await loop.create_unix_connection(lambda: self.channel, sock=link)
        self.linked = True

    def greeting(self, *held: HeldConnection, first_unstored: int = 1) -> Hello:
        """Return what it says first: who it is, and what it holds."""
        return Hello(
            PROTOCOL_VERSION,
            PROTOCOL_VERSION,
            "fake",
            self.name,
            self.settings["incarnation"],
            self.settings["secret"],
            self.pid,
            identity.started_at_ticks(self.pid),
            identity.boot_id(),
            first_unstored,
            [pack(one) for one in held],
        )

    def hello(self, *held: HeldConnection) -> None:
        """Say it."""
        self.send(self.greeting(*held))

    async def link(self, *held: HeldConnection, resent: bool = True) -> Welcome:
        """Dial, say hello, wait for the welcome; `resent`: say that all which was not stored has been sent again."""
        await self.dial()
        self.hello(*held)
        welcome = await self.expect(Welcome)
        if resent:
            self.send(Resent(self._number))
        return welcome

    def send(self, report: Report) -> None:
        """Say something."""
        self.channel.send(report)

    def events(
        self,
        *events: tuple[int, int, Kind, str],
        created: Iterable[int] = (),
        updates: Iterable[ConnectionUpdate] = (),
        asks: Iterable[AskCall | AskKill] = (),
        size: int = 0,
    ) -> int:
        """Send a numbered frame of events (connection, seq, kind, JSON of the event); return its number."""
        self._number += 1
        columns = [
            (
                connection.to_bytes(8, "little", signed=True),
                kind,
                connection_body(body_prefix(kind, connection, self.name), seq, 0, event.encode() + b" " * size),
            )
            for connection, seq, kind, event in events
        ]
        self.send(
            Events(
                self._number,
                b"".join(connection for connection, _, _ in columns),
                bytes(kind for _, kind, _ in columns),
                b"\n".join(body for _, _, body in columns),
                [created_of(connection, self.name) for connection in created],
                list(updates),
                list(asks),
            )
        )
        return self._number

    def opened(self, connection: int, *, new: bool = False) -> int:
        """Report that a connection is Connected; `new`: code in the worker has opened it. Returns the frame's number."""
        return self.events(
            (connection, 1, Kind.onOpen, "{}"),
            created=[connection] if new else [],
            updates=[ConnectionUpdate(connection, "Connected", 1)],
        )

    def message(self, connection: int, seq: int, size: int) -> int:
        """Report a message of so many bytes, as a frame of its own; return the frame's number."""
        update = ConnectionUpdate(connection, "Connected", seq)
        return self.events((connection, seq, Kind.onMessage, "{}"), updates=[update], size=size)

    async def expect(self, wanted: type[Wanted], timeout_s: float = TIMEOUT_S) -> Wanted:
        """Return the next command of a kind; those before it are passed over."""
        async with asyncio.timeout(timeout_s):
            while True:
                command = await self._commands.get()
                if isinstance(command, wanted):
                    return command

    def hang_up(self) -> None:
        """End the link; the process lives."""
        self.channel.abort()

    async def lost(self) -> None:
        """Wait until the link has ended."""
        await asyncio.wait_for(self._lost.wait(), TIMEOUT_S)

    def die(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End as a worker does that is killed: what it has sent is in the socket, and nothing follows."""
        if self.linked:
            self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _on_exit(self) -> None:
        # A process that ends takes its link with it; the test holds a second handle of it.
        self.let_go()
        if self.linked:
            self.channel.close()

    def let_go(self) -> None:
        """The test ends: look at the process no longer."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _take(self, channel: Channel[Command], commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Probe):
                self.probed.append(command.probe)
                if not self.silent:
                    self.send(msgspec.structs.replace(self.stats, probe=command.probe))
            else:
                self._commands.put_nowait(command)
                if isinstance(command, Stop) and not self.silent:
                    self.die()

    def _on_lost(self, channel: Channel[Command], exc: Exception | None) -> None:
        if channel is not self.channel:
            return  # it has dialled again since: the end of the link before is only heard of now
        self.linked = False
        self._lost.set()


class FakeWorkers:
    """All fake workers of one test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fakes"
        self._listener = socket.socket(socket.AF_UNIX)
        self._all: list[FakeWorker] = []

    async def come(self) -> FakeWorker:
        """Return the next process that the service has started."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_S):
            line = b""
            while not line.endswith(b"\n"):
                control, _ = await loop.sock_accept(self._listener)
                control.setblocking(False)
                line = b""
                while not line.endswith(b"\n") and (data := await loop.sock_recv(control, 65_536)):
                    line += data
                # Else it was ended before it had said who it is: the next one counts.
        worker = FakeWorker(*json.loads(line), control)
        self._all.append(worker)
        return worker

    async def linked(self, *held: HeldConnection) -> FakeWorker:
        """Return the next process that the service has started, once it is Running."""
        worker = await self.come()
        await worker.link(*held)
        return worker

    def listen(self) -> None:
        """Wait for them from now on."""
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._listener.setblocking(False)

    def close(self) -> None:
        """End what is left of them."""
        for worker in self._all:
            worker.die()
            worker.let_go()
            worker._control.close()
        self._listener.close()


@contextlib.asynccontextmanager
async def running_service(
    folder: Path, journal: Journal | None = None, *, handover: bool = False, **supervisor: float
) -> AsyncIterator[Service]:
    """A service in this process; `handover`: it leaves its workers to the next one on the folder."""
    # Short are those that a test has to wait for; those that a busy machine could miss are long, and so is what stands until a test is done.
    short = {"stop_timeout": 0.5, "restart_delay": 0.01}
    patient = {"start_timeout": 60.0, "kill_timeout": 30.0, "restart_delay_max": 600.0, "restart_window": 600.0}
    deadlines: dict[str, float] = {**short, **patient, **supervisor}
    config = Config(supervisor=SupervisorConfig(fork_workers=False, **deadlines), functions=FUNCTIONS)  # type: ignore[arg-type]
    state_dir = folder / "state"
    state_dir.mkdir(exist_ok=True)
    service = Service(config, state_dir, journal or SqliteJournal(state_dir / "journal.db", JournalConfig()))
    await service.start()
    try:
        yield service
    finally:
        await service.stop(handover=handover)


@contextlib.contextmanager
def stalled_disk(state_dir: Path) -> Iterator[None]:
    """Nothing can be written meanwhile: somebody else holds the database's lock."""
    blocker = apsw.Connection(str(state_dir / "journal.db"))
    blocker.set_busy_timeout(60_000)  # the writer may just be at work
    blocker.execute("BEGIN IMMEDIATE").fetchall()
    try:
        yield
    finally:
        blocker.execute("ROLLBACK").fetchall()
        blocker.close()


async def until(true: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until something of the service is so."""
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.005)


def created_of(connection: int, worker: str) -> ConnectionCreated:
    """Return the unchanging part of a connection's record."""
    return ConnectionCreated(connection, "ws://nowhere/", worker, None, "text", [], 1)


def held(connection: int, worker: str, status: str = "Connected", seq: int = 1) -> HeldConnection:
    """Return what a hello says of a connection."""
    return HeldConnection(created_of(connection, worker), ConnectionUpdate(connection, status, seq))


async def told_of(service: Service, connection: int) -> list[tuple[int, str]]:
    """Return (seq, kind) of all events of a connection that are committed."""
    await service.journal.append_waiting(Append())
    batches, _ = await service.journal.read(0, EventFilter(connections=frozenset((connection,))), 1 << 30)
    return [
        (json.loads(b"{" + body)["seq"], Kind(kind).name)
        for batch in batches
        for who, kind, body in zip(batch.connections, batch.kinds, batch.bodies, strict=True)
        if who == connection
    ]
