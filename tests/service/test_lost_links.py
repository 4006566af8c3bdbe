"""A link that is lost while service and worker live: who waits is answered from the record, and what was lost on it is told again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.errors import ErrCode, ErrorEntry, Invalid, InvalidRequest, WorkerSilent
from mooring.events import Kind
from mooring.link.messages import Open, Opened, OpenInvalid, Terminate
from mooring.link.record import ConnectionUpdate, KeptUpdate, Terminated
from mooring.options import ConnectionRequest
from mooring_service import connections, opening
from mooring_service.opening import OpenError, Opening
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, held, running_service, told_of

PROMPT_S = 60.0  # against ten minutes; see `_patient`


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not answered by what comes over a link waits for so long that it cannot be taken for an answer."""
    monkeypatch.setattr(opening, "SILENT_S", 600.0)
    monkeypatch.setattr(connections, "ANSWER_MARGIN_S", 600.0)


async def _start(service: Service, fakes: FakeWorkers) -> FakeWorker:
    starting = asyncio.create_task(service.workers.start("main"))
    worker = await fakes.linked()
    await starting
    return worker


async def _begin(service: Service, worker: FakeWorker) -> tuple[Opening, Open]:
    begun = await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="main"))
    return begun, await worker.expect(Open)


async def _lose(worker: FakeWorker) -> None:
    worker.hang_up()
    await worker.lost()


async def test_a_create_whose_answer_was_lost_is_answered_from_the_record(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        begun, _ = await _begin(service, worker)
        await _lose(worker)
        await worker.link(held(begun.connection, "main"), resent=False)
        worker.opened(begun.connection)  # sent again; the answer went with the link
        record = await asyncio.wait_for(begun.done, PROMPT_S)
        assert record.status == "Connected"


async def test_a_create_that_failed_while_the_link_was_lost_raises_what_the_record_has(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        for code, flags in (
            (ErrCode.CONNECT_TIMEOUT, (True, False, False)),
            (ErrCode.TERMINATED_WHILE_CONNECTING, (False, True, False)),
            (ErrCode.POLICY_REFUSED, (False, False, True)),
            (ErrCode.REFUSED, (False, False, False)),
        ):
            begun, _ = await _begin(service, worker)
            await _lose(worker)
            await worker.link(resent=False)
            end = ConnectionUpdate(
                begun.connection,
                "Closed",
                2,
                errors=[ErrorEntry(code, "so")],
                terminate=Terminated(1006, "so", False),
                ended=True,
            )
            worker.events(
                (begun.connection, 1, Kind.onError, "{}"), (begun.connection, 2, Kind.onTerminate, "{}"), updates=[end]
            )
            with pytest.raises(OpenError) as caught:
                await asyncio.wait_for(begun.done, PROMPT_S)
            found = caught.value
            assert (found.timed_out, found.terminated, found.policy) == flags
            assert [error.err_code for error in found.errors] == [code] and found.connection == begun.connection


async def test_a_create_that_never_reached_the_worker_is_told_over_the_next_link_and_opens(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        begun, _ = await _begin(service, worker)
        await _lose(worker)
        await worker.link()
        again = await worker.expect(Open)
        assert again.connection == begun.connection
        worker.send(Opened(again.request, worker.opened(again.connection)))
        assert (await asyncio.wait_for(begun.done, PROMPT_S)).status == "Connected"
        assert await told_of(service, begun.connection) == [(1, "onOpen")]


async def test_a_refusal_that_was_lost_with_the_link_is_asked_for_again(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        begun, order = await _begin(service, worker)
        worker.hang_up()
        worker.send(OpenInvalid(order.request, [Invalid("/handler/params", "no")]))  # nobody reads it
        await worker.lost()
        await worker.link()
        again = await worker.expect(Open)
        worker.send(OpenInvalid(again.request, [Invalid("/handler/params", "no")]))
        with pytest.raises(InvalidRequest, match="/handler/params: no"):
            await asyncio.wait_for(begun.done, PROMPT_S)
        assert service.connections.record(begun.connection).status == "Closed"


async def test_an_order_under_which_the_link_is_lost_twice_ends_its_connection(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        begun, _ = await _begin(service, worker)
        await _lose(worker)
        await worker.link()
        await worker.expect(Open)
        await _lose(worker)
        await worker.link()
        with pytest.raises(OpenError, match="before it was dialled"):
            await asyncio.wait_for(begun.done, PROMPT_S)
        assert await told_of(service, begun.connection) == [(1, "onError"), (2, "onTerminate")]


async def test_a_create_whose_worker_dies_of_what_the_link_was_lost_of_ends_with_it(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, restart_delay=30) as service:
        worker = await _start(service, fakes)
        begun, _ = await _begin(service, worker)
        await _lose(worker)
        worker.die()
        with pytest.raises(OpenError) as caught:
            await asyncio.wait_for(begun.done, PROMPT_S)
        assert [error.err_code for error in caught.value.errors] == [ErrCode.WORKER_DIED]


async def _opened(service: Service, worker: FakeWorker) -> int:
    begun, order = await _begin(service, worker)
    worker.send(Opened(order.request, worker.opened(order.connection)))
    await begun.done
    return begun.connection


def _end(connection: int) -> ConnectionUpdate:
    return ConnectionUpdate(connection, "Closed", 2, terminate=Terminated(1000, "", True), ended=True)


async def test_a_terminate_whose_answer_was_lost_is_answered_from_the_record(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        connection = await _opened(service, worker)
        ending = asyncio.create_task(service.connections.terminate(connection, None, None))
        await worker.expect(Terminate)
        await _lose(worker)
        await worker.link(resent=False)
        worker.events((connection, 2, Kind.onTerminate, "{}"), updates=[_end(connection)])
        assert (await asyncio.wait_for(ending, PROMPT_S)).status == "Closed"


async def test_a_terminate_that_never_arrived_is_told_over_the_next_link(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        connection = await _opened(service, worker)
        ending = asyncio.create_task(service.connections.terminate(connection, 4001, "so"))
        await worker.expect(Terminate)
        await _lose(worker)
        await worker.link(held(connection, "main"))
        again = await worker.expect(Terminate)
        assert (again.connection, again.code, again.reason) == (connection, 4001, "so")
        worker.events((connection, 2, Kind.onTerminate, "{}"), updates=[_end(connection)])
        assert (await asyncio.wait_for(ending, PROMPT_S)).status == "Closed"


async def test_a_terminate_under_which_the_process_dies_ends_one_that_is_kept_too(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, restart_delay=30) as service:
        worker = await _start(service, fakes)
        begun = await service.connections.open(ConnectionRequest(url="ws://nowhere/", worker="main", reconnect=True))
        order = await worker.expect(Open)
        connection = order.connection
        number = worker.events(
            (connection, 1, Kind.onOpen, "{}"),
            updates=[ConnectionUpdate(connection, "Connected", 1, kept=KeptUpdate(socket=1))],
        )
        worker.send(Opened(order.request, number))
        await begun.done
        ending = asyncio.create_task(service.connections.terminate(connection, None, None))
        await worker.expect(Terminate)
        worker.die()
        assert (await asyncio.wait_for(ending, PROMPT_S)).status == "Closed"
        assert [kind for _, kind in await told_of(service, connection)] == ["onOpen", "onDisconnect", "onTerminate"]


async def test_a_terminate_whose_worker_does_not_come_back_ends_in_time(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_MARGIN_S", -4.5)  # of the 5 s of closeTimeout
    async with running_service(tmp_path) as service:
        worker = await _start(service, fakes)
        connection = await _opened(service, worker)
        ending = asyncio.create_task(service.connections.terminate(connection, None, None))
        await worker.expect(Terminate)
        await _lose(worker)
        with pytest.raises(WorkerSilent):
            await asyncio.wait_for(ending, PROMPT_S)
