"""Adoption: whom a hello declares dead, and whom not; and that nobody dies twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring.link.messages import Open, Opened, Resent, Stored, Welcome
from mooring.link.record import ConnectionUpdate, Terminated
from mooring.options import ConnectionRequest
from mooring_service.adoption import unseen
from mooring_service.journal.batch import EventFilter
from mooring_service.journal.file import restore
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, held, running_service, stalled_disk, told_of, until


def test_unseen_is_what_lives_and_neither_the_hello_names_nor_is_on_its_way() -> None:
    assert unseen([1, 2, 3, 4], [2, 9], {3, 8}) == {1, 4}
    assert unseen([], [1], {2}) == frozenset()


async def _opened(service: Service, worker: FakeWorker) -> int:
    """Open a connection by request; return its id once it is Connected."""
    begun = await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker=worker.name))
    command = await worker.expect(Open)
    worker.send(Opened(command.request, worker.opened(command.connection)))
    await begun.done
    return begun.connection


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


def _status(service: Service, connection: int) -> str:
    return service.connections.record(connection).status


async def test_what_is_opened_between_hello_and_the_end_of_resending_lives(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
        known = await _opened(service, worker)
    async with running_service(tmp_path) as service:
        await worker.dial()
        worker.hello(held(known, "main"))
        first = (await worker.expect(Welcome)).first_id
        number = worker.opened(first, new=True)  # code in the worker; the hello could not name it
        assert (await worker.expect(Stored)).number == number
        connection = await _opened(service, worker)
        worker.send(Resent(number + 1))
        # An unnumbered addition is committed behind whatever the end of resending has caused.
        assert await told_of(service, first) == [(1, "onOpen")]
        assert await told_of(service, connection) == [(1, "onOpen")]
        assert [_status(service, one) for one in (known, first, connection)] == ["Connected"] * 3


async def test_what_never_reached_the_worker_has_ended_and_its_own_ends_are_not_told_twice(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
        closed = await _opened(service, worker)
        begun = await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="main"))
        worker.hang_up()  # it has not read it
    async with running_service(tmp_path) as service:
        await worker.link(resent=False)
        # It had ended while nobody was there: the hello does not name it, and its end is sent again.
        number = worker.events(
            (closed, 2, Kind.onTerminate, "{}"),
            updates=[ConnectionUpdate(closed, "Closed", 2, terminate=Terminated(1000, "", True), ended=True)],
        )
        worker.send(Resent(number))
        await until(lambda: _status(service, begun.connection) == "Closed")
        assert await told_of(service, begun.connection) == [(1, "onError"), (2, "onTerminate")]
        assert await told_of(service, closed) == [(1, "onOpen"), (2, "onTerminate")]


async def test_a_worker_that_dies_while_what_it_never_saw_is_being_ended_ends_nothing_twice(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
        begun = [
            (await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="main"))).connection
            for _ in range(3)
        ]
        worker.hang_up()
    async with running_service(tmp_path, restart_delay=30) as service:
        await worker.link(resent=False)
        # What waits for this disk is written in one transaction: adoption and death find the same connections open.
        with stalled_disk(service.state_dir):
            worker.send(Resent(worker.events()))
            worker.die()
            await until(lambda: service.workers.record("main").pid is None)
        await until(lambda: service.workers.record("main").status == "Restarting")
        for connection in begun:
            assert await told_of(service, connection) == [(1, "onError"), (2, "onTerminate")]


async def test_connections_of_processes_that_nobody_knows_any_more_end_under_their_own_worker(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.service.STRAYS_S", 60.0)  # a start waits so long for what it is to tell
    opened = {}
    async with running_service(tmp_path) as service:
        for name in ("a", "b"):
            worker = await _start(service, fakes, name)
            opened[name] = await _opened(service, worker)
        await service.journal.backup(str(tmp_path / "copy.db"))
    folder = tmp_path / "restored"
    (folder / "state").mkdir(parents=True)
    restore(tmp_path / "copy.db", folder / "state" / "journal.db")
    async with running_service(folder) as service:
        for name, connection in opened.items():
            batches, _ = await service.journal.read(0, EventFilter(workers=frozenset((name,))), 1 << 20)
            (last,) = [batch for batch in batches if Kind.onTerminate in batch.kinds]
            assert list(last.connections) == [connection]


async def test_what_was_stored_for_a_worker_that_lost_its_link_before_the_dial_is_told_over_the_next_one(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        opening = asyncio.create_task(service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="main")))
        await asyncio.sleep(0)
        worker.hang_up()
        begun = await opening
        await worker.lost()
        await worker.link()
        command = await worker.expect(Open)
        worker.send(Opened(command.request, worker.opened(command.connection)))
        assert (await begun.done).status == "Connected"
