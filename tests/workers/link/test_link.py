"""A worker's end of the link, against a service that the test plays."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mooring import call_worker
from mooring.link import held, link, owed
from mooring.link.channel import Channel, frame
from mooring.link.messages import (
    PROTOCOL_VERSION,
    Call,
    Called,
    Events,
    Goodbye,
    Hello,
    Open,
    Opened,
    Probe,
    Refused,
    Resent,
    Stats,
    Stop,
    Stored,
    Welcome,
    WorkerSettings,
    report_decoder,
)
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionRequest
from mooring.process import worker
from mooring.usercode import current
from tests.conftest import wait_for
from tests.servers import EchoServer

CONNECTIONS = 40
ORPHAN_S = 0.4
ASKS = 30  # of a megabyte; the link takes some of them, and the outbox holds the rest


class Service:
    """Listens as a service does; every stream is welcomed (unless `waits`), nothing is ever stored."""

    welcome = Welcome(0, 1, 1_000)

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.streams: list[Channel[Any]] = []
        self.reports: list[Any] = []

    def take(self, channel: Channel[Any], reports: list[Any]) -> None:
        self.reports += reports
        if not self.waits and any(isinstance(report, Hello) for report in reports):
            channel.send(self.welcome)

    def stream(self) -> Channel[Any]:
        self.streams.append(Channel(report_decoder, self.take, lambda channel, exc: None))
        return self.streams[-1]

    async def ended(self) -> None:
        """End all streams, and leave the loop a pass to close them."""
        for stream in self.streams:
            stream.abort()
        await asyncio.sleep(0)

    def of(self, kind: type) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]


def settings_of(folder: Path, **bounds: Any) -> WorkerSettings:
    return WorkerSettings(
        worker="w",
        incarnation="i",
        secret="s",
        socket_path=str(folder / "link.sock"),
        log_file=str(folder / "w.log"),
        exit_record=str(folder / "exit.json"),
        **bounds,
    )


async def test_a_hello_names_any_number_of_connections_however_long_their_urls_and_headers(
    tmp_path: Path, echo: EchoServer
) -> None:
    service = Service()
    path = str(tmp_path / "link.sock")
    server = await asyncio.get_running_loop().create_unix_server(service.stream, path)
    settings = settings_of(tmp_path)
    working = asyncio.create_task(worker.Worker(settings).run())
    try:
        await wait_for(lambda: service.of(Hello))
        url = echo.url + "?" + "x" * 7_000
        headers = {f"X-{number}-{'y' * 200}": "z" for number in range(30)}
        for number in range(CONNECTIONS):
            request = ConnectionRequest(url=url, headers=headers)
            service.streams[0].send(Open(1 + number, 100 + number, request, None, 1))
        await wait_for(lambda: len(service.of(Opened)) == CONNECTIONS)
        assert not _created(service.reports), "the service has stored it before it asked"
        frames = {events.number: {update.id for update in events.updates} for events in service.of(Events)}
        assert len(frames) < CONNECTIONS, "what opens in one pass of the loop shares a frame"
        for opened in service.of(Opened):
            assert 99 + opened.request in set().union(
                *(ids for number, ids in frames.items() if number <= opened.after)
            )
        service.streams[0].abort()
        await wait_for(lambda: len(service.of(Hello)) == 2)
        hello = service.of(Hello)[1]
        assert [held.id_of(packed) for packed in hello.connections] == list(range(100, 100 + CONNECTIONS))
        assert {held.read(packed).update.status for packed in hello.connections} == {"Connected"}
        assert len(frame(hello)) < 200 * CONNECTIONS + 500, "10,000 of them are 2 MB: one frame holds 256"
        await wait_for(lambda: set(_again(service, hello)) == set(frames))
        assert _again(service, hello) == frames, "what was not stored is sent again, whole"
        service.streams[-1].send(Stop("done", 2.0))
        assert await asyncio.wait_for(working, 60) == "done"
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        await service.ended()
        current.set_runtime(None)


def _again(service: Service, hello: Hello) -> dict[int, set[int]]:
    """Return which connections the frames speak of that came behind `hello`."""
    behind = service.reports[service.reports.index(hello) :]
    return {one.number: {update.id for update in one.updates} for one in behind if isinstance(one, Events)}


def _created(reports: list[Any]) -> list[ConnectionCreated]:
    return [created for report in reports if isinstance(report, Events) for created in report.created]


@asynccontextmanager
async def working(folder: Path, service: Service) -> AsyncIterator[asyncio.Task[str]]:
    """A worker that is welcome to `service`."""
    server = await asyncio.get_running_loop().create_unix_server(service.stream, str(folder / "link.sock"))
    task = asyncio.create_task(worker.Worker(settings_of(folder)).run())
    try:
        await wait_for(lambda: service.of(Resent))
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await service.ended()
        current.set_runtime(None)


async def _ask_often() -> None:
    for number in range(ASKS):
        await asyncio.to_thread(call_worker, "other", "store", number, b"x" * 1_000_000)


def _asked(reports: list[Any]) -> list[int]:
    return [ask.params[0] for report in reports if isinstance(report, Events) for ask in report.asks]


@pytest.mark.parametrize("window_bytes", [0, 3_000_000], ids=["congested", "window"])
async def test_a_worker_that_ends_hands_over_what_the_service_takes_late(
    tmp_path: Path, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CLOSE_TIMEOUT_S", 3600)  # nothing waits for its deadline
    service = Service()
    service.welcome = Welcome(0, 1, 1_000, PROTOCOL_VERSION, window_bytes)
    async with working(tmp_path, service) as task:
        (stream,) = service.streams
        if not window_bytes:
            stream.pause_reading()
        await _ask_often()
        await wait_for(lambda: current.runtime().outbox.unsent)
        stream.send(Stop("done", 0.1))
        await wait_for((tmp_path / "exit.json").exists)
        assert not task.done()
        stream.resume_reading()
        while window_bytes and len(_asked(service.reports)) < ASKS:
            stream.send(Stored(service.of(Events)[-1].number, window_bytes))
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(task, 60) == "done"
        await wait_for(lambda: service.of(Goodbye))
        assert _asked(service.reports) == list(range(ASKS))


async def test_that_all_was_sent_again_is_said_behind_the_last_of_it_however_little_goes_out_at_a_time(
    tmp_path: Path,
) -> None:
    service = Service()
    async with working(tmp_path, service) as task:
        await _ask_often()
        await wait_for(lambda: len(_asked(service.reports)) == ASKS)
        service.reports.clear()
        service.welcome = Welcome(0, 1, 1_000, PROTOCOL_VERSION, 3_000_000)
        service.streams[0].abort()
        await wait_for(lambda: len(service.of(Events)) >= 3)
        while not service.of(Resent):
            service.streams[-1].send(Stored(service.of(Events)[-1].number, 3_000_000))
            await asyncio.sleep(0.01)
        (resent,) = service.of(Resent)
        before = service.reports[: service.reports.index(resent)]
        assert _asked(before) == list(range(ASKS))
        assert resent.number == [report for report in before if isinstance(report, Events)][-1].number
        service.streams[-1].send(Stop("done", 0.1))
        assert await asyncio.wait_for(task, 60) == "done"


async def test_a_service_that_cannot_welcome_yet_is_a_service_as_long_as_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal cannot be opened: a full disk must not cost the connections that it would adopt."""
    monkeypatch.setattr(link, "WELCOME_TIMEOUT_S", ORPHAN_S)
    now = 1_000.0  # goes on when what was said by then was heard, however slow the machine is
    monkeypatch.setattr(link, "_orphan_clock", lambda: now)
    service = Service(waits=True)
    server = await asyncio.get_running_loop().create_unix_server(service.stream, str(tmp_path / "link.sock"))
    working = asyncio.create_task(worker.Worker(settings_of(tmp_path, orphan_time_s=ORPHAN_S)).run())
    try:
        await wait_for(lambda: service.of(Hello))
        linked = current.runtime().answer.__self__  # type: ignore[attr-defined]  # what it answers over
        streams = len(service.streams)
        for _ in range(30):
            now += ORPHAN_S / 10
            service.streams[-1].send(Probe())
            await wait_for(lambda heard_at=now: linked._heard_at == heard_at)
        assert len(service.streams) == streams, "it waits at the same link"
        assert not working.done()
        assert service.of(Stats) == [], "and says nothing before it is welcome"
        # Now it is silent, as one that hangs: after a while that is none.
        now += 2 * ORPHAN_S
        assert "no service" in await asyncio.wait_for(working, 60)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        await service.ended()
        current.set_runtime(None)


async def test_a_service_that_refuses_a_worker_for_now_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "REDIAL_MAX_S", 0.01)
    service = Service(waits=True)
    why = ["it is stopping"] * 5 + ["another one is linked"] * 5

    def take(channel: Channel[Any], reports: list[Any]) -> None:
        service.reports += reports
        if any(isinstance(report, Hello) for report in reports):
            channel.send(Refused(why.pop(0)) if why else Refused("it does not know you", drain=True))
            channel.close()

    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Channel(report_decoder, take, lambda channel, exc: None), str(tmp_path / "link.sock")
    )
    try:
        assert "it does not know you" in await worker.Worker(settings_of(tmp_path)).run()
    finally:
        server.close()
        await server.wait_closed()
        current.set_runtime(None)
    assert len(service.of(Hello)) == 11
    told = [record.getMessage() for record in caplog.records if "refuses this worker for now" in record.getMessage()]
    assert [text.rpartition(": ")[2] for text in told] == ["it is stopping", "another one is linked"]


async def test_events_keep_to_their_window_and_all_else_passes(tmp_path: Path, echo: EchoServer) -> None:
    window_bytes = 3_000_000
    service = Service()
    service.welcome = Welcome(0, 1, 1_000, PROTOCOL_VERSION, window_bytes)
    server = await asyncio.get_running_loop().create_unix_server(service.stream, str(tmp_path / "link.sock"))
    working = asyncio.create_task(worker.Worker(settings_of(tmp_path)).run())
    try:
        await wait_for(lambda: service.of(Hello))
        stream = service.streams[0]
        for number in range(2):
            request = ConnectionRequest(url=f"{echo.url}push?count=20&size=500000")
            stream.send(Open(1 + number, 100 + number, request, None, 1))

        def events_bytes() -> int:
            return sum(len(events.bodies) for events in service.of(Events))

        def largest_frame() -> int:
            return max(len(events.bodies) for events in service.of(Events))

        def probed(probe: int) -> Stats | None:
            return next((stats for stats in service.of(Stats) if stats.probe == probe), None)

        await wait_for(lambda: events_bytes() >= window_bytes)
        for probe in itertools.count(1):  # it answers all the same, and sends no more events
            stream.send(Probe(probe))
            held = await wait_for(lambda probe=probe: probed(probe))
            await asyncio.sleep(0.02)
            if probe >= 10 and held.outbox_bytes > 2 * window_bytes:  # what comes meanwhile waits in the worker
                break
        assert window_bytes <= events_bytes() <= window_bytes + largest_frame()
        before = events_bytes()
        stream.send(Stored(service.of(Events)[-1].number, 1_000_000))
        await wait_for(lambda: events_bytes() >= before + 1_000_000)
        await asyncio.sleep(0.1)
        assert events_bytes() <= before + 1_000_000 + largest_frame(), "the window is as large as it was said last"
        while len({*_kinds(service)} & {100, 101}) < 2 or _kinds(service).count(100) + _kinds(service).count(101) < 42:
            stream.send(Stored(service.of(Events)[-1].number))
            await asyncio.sleep(0.01)
        stream.send(Stop("done", 2.0))
        assert await asyncio.wait_for(working, 60) == "done"
        assert service.of(Goodbye)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        await service.ended()
        current.set_runtime(None)


def _kinds(service: Service) -> list[int]:
    """Return the connection of each event that has come."""
    return [connection for events in service.of(Events) for connection in array("q", events.connections)]


async def test_it_knows_whether_the_service_holds_all_that_it_may(tmp_path: Path) -> None:
    service = Service()
    service.welcome = Welcome(0, 1, 1_000, PROTOCOL_VERSION, 0, 9)
    async with working(tmp_path, service):
        assert current.runtime().full_at == 9
        service.streams[0].send(Stored(0, 0))
        await wait_for(lambda: current.runtime().full_at == 0)
        service.streams[0].send(Stored(0, 0, 9))
        await wait_for(lambda: current.runtime().full_at == 9)


async def test_an_answer_that_finds_no_link_goes_over_the_next_one(tmp_path: Path) -> None:
    service = Service()
    held = tmp_path / "held"
    held.touch()
    async with working(tmp_path, service):
        service.streams[0].send(Call(7, "hold", "tests.end_to_end.user_code:hold", [str(held)]))
        await wait_for(lambda: current.runtime().context.running.item)
        service.waits = True  # there is a service, which does not welcome it yet
        service.streams[0].abort()
        await wait_for(lambda: len(service.of(Hello)) == 2)
        held.unlink()
        await wait_for(lambda: current.runtime().context.running.item is None)
        assert not service.of(Called)
        service.streams[-1].send(service.welcome)
        await wait_for(lambda: service.of(Called))
        assert [(answer.request, answer.result) for answer in service.of(Called)] == [(7, b'"released"')]


def test_what_is_owed_is_bounded_in_items_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "OWED_ITEMS", 3)
    monkeypatch.setattr(owed, "OWED_BYTES", 10)
    kept = owed.Owed()
    for data in (b"1", b"2", b"3", b"4"):
        kept.add(data)
    assert kept.take() == [b"2", b"3", b"4"]
    kept.add(b"x" * 8)
    kept.add(b"y" * 4)
    assert kept.take() == [b"y" * 4] and kept.take() == []
