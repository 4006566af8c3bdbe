"""A worker's end of the link, against a service that the test plays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mooring import call_worker
from mooring.link.channel import Channel, frame
from mooring.link.messages import (
    ConnectionCreated,
    Events,
    Goodbye,
    Hello,
    Open,
    Opened,
    Stop,
    Welcome,
    WorkerSettings,
    report_decoder,
)
from mooring.options import ConnectionRequest
from mooring.process import worker
from mooring.usercode import current
from tests.conftest import wait_for
from tests.servers import EchoServer

CONNECTIONS = 40
ASKS = 30  # of a megabyte; the link takes some of them, and the outbox holds the rest


def _settings(folder: Path, path: str) -> WorkerSettings:
    return WorkerSettings(
        worker="w",
        incarnation="i",
        secret="s",
        socket_path=path,
        log_file=str(folder / "w.log"),
        exit_record=str(folder / "exit.json"),
    )


class Service:
    """Listens as a service does; every stream is welcomed, nothing is ever stored."""

    def __init__(self) -> None:
        self.streams: list[Channel[Any]] = []
        self.reports: list[Any] = []

    def take(self, channel: Channel[Any], reports: list[Any]) -> None:
        self.reports += reports
        if any(isinstance(report, Hello) for report in reports):
            channel.send(Welcome(0, 1, 1_000))

    def stream(self) -> Channel[Any]:
        self.streams.append(Channel(report_decoder, self.take, lambda channel, exc: None))
        return self.streams[-1]

    def of(self, kind: type) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]


async def test_a_hello_names_any_number_of_connections_however_long_their_urls_and_headers(
    tmp_path: Path, echo: EchoServer
) -> None:
    service = Service()
    path = str(tmp_path / "link.sock")
    server = await asyncio.get_running_loop().create_unix_server(service.stream, path)
    working = asyncio.create_task(worker.Worker(_settings(tmp_path, path)).run())
    try:
        await wait_for(lambda: service.of(Hello))
        url = echo.url + "?" + "x" * 7_000
        headers = {f"X-{number}-{'y' * 200}": "z" for number in range(30)}
        for number in range(CONNECTIONS):
            request = ConnectionRequest(url=url, headers=headers)
            service.streams[0].send(Open(1 + number, 100 + number, request, None, 1))
        await wait_for(lambda: len(service.of(Opened)) == CONNECTIONS)
        reported = [created for events in service.of(Events) for created in events.created]
        assert len({created.id for created in reported}) == CONNECTIONS
        assert {created.url for created in reported} == {url}
        service.streams[0].abort()
        await wait_for(lambda: len(service.of(Hello)) == 2)
        hello = service.of(Hello)[1]
        assert [held.created.id for held in hello.connections] == list(range(100, 100 + CONNECTIONS))
        assert {held.update.status for held in hello.connections} == {"Connected"}
        assert len(frame(hello)) < 200 * CONNECTIONS + 500, "10,000 of them are 2 MB: one frame holds 256"
        await wait_for(lambda: len(_created(service.reports[service.reports.index(hello) :])) == CONNECTIONS)
        again = _created(service.reports[service.reports.index(hello) :])
        assert {created.url for created in again} == {url}, "what was not stored is sent again, whole"
        service.streams[-1].send(Stop("done", 2.0))
        assert await asyncio.wait_for(working, 20) == "done"
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        current.set_runtime(None)


def _created(reports: list[Any]) -> list[ConnectionCreated]:
    return [created for report in reports if isinstance(report, Events) for created in report.created]


async def test_a_worker_that_ends_hands_over_what_the_service_takes_late(tmp_path: Path) -> None:
    service = Service()
    path = str(tmp_path / "link.sock")
    server = await asyncio.get_running_loop().create_unix_server(service.stream, path)
    working = asyncio.create_task(worker.Worker(_settings(tmp_path, path)).run())
    try:
        await wait_for(lambda: service.of(Hello))
        (stream,) = service.streams
        stream.pause_reading()
        for number in range(ASKS):
            await asyncio.to_thread(call_worker, "other", "store", number, b"x" * 1_000_000)
        await wait_for(lambda: current.runtime().outbox.unsent)
        stream.send(Stop("done", 0.1))
        await wait_for((tmp_path / "exit.json").exists)
        assert not working.done()
        stream.resume_reading()
        assert await asyncio.wait_for(working, 5) == "done"
        await wait_for(lambda: service.of(Goodbye))
        asked = [ask.params[0] for events in service.of(Events) for ask in events.asks]
        assert asked == list(range(ASKS))
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        current.set_runtime(None)
