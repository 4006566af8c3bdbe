"""One worker as the service sees it: requests, their answers, and their deadlines."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from mooring.errors import Unavailable, WorkerSilent
from mooring.link import channel as channel_module
from mooring.link.channel import Channel, FrameSplitter
from mooring.link.messages import AskCall, Call, Called, Open, Stored, Taken, report_decoder
from mooring.link.messages_sent import Send, Sent
from mooring.options import ConnectionRequest
from mooring_service.processes import slot as slot_module
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.requests import SWEEP_S
from mooring_service.processes.slot import OPENS_AT_ONCE, Slot
from tests.service.fake_worker import FakeWorkers, running_service, until


def _slot() -> Slot:
    return Slot("main", RestartBudget(1, 1.0, 1.0, 1.0))


async def test_a_request_without_an_answer_ends_in_time() -> None:
    slot = _slot()
    (_, future), (_, patient) = slot.request(0.1), slot.request(600.0)
    with pytest.raises(WorkerSilent):
        await asyncio.wait_for(future, 60)
    assert not patient.done()


async def test_what_was_answered_while_the_service_stood_still_is_an_answer() -> None:
    slot = _slot()
    number, future = slot.request(0.1)
    time.sleep(3 * SWEEP_S)
    asyncio.get_running_loop().call_later(0.01, slot.answer, number, "here")  # in the socket: read in the next pass
    assert await asyncio.wait_for(future, 60) == "here"


async def test_an_answer_waits_until_what_it_speaks_of_is_stored() -> None:
    slot = _slot()
    number, future = slot.request(60.0)
    slot.answer(number, "opened", after=7)
    slot.committed(6)
    assert not future.done()
    slot.committed(7)
    assert await future == "opened"


async def test_a_worker_begins_with_the_first_of_many_opens_while_the_others_are_made() -> None:
    slot = _slot()
    ours, its = socket.socketpair()
    its.settimeout(60)
    _, channel = await asyncio.get_running_loop().create_unix_connection(
        lambda: Channel(report_decoder, lambda channel, reports: None, lambda channel, exc: None), sock=ours
    )
    slot.linked_by(channel)
    splitter = FrameSplitter()
    sent = 2 * OPENS_AT_ONCE + 1
    for connection in range(1, sent + 1):
        slot.open(Open(connection, connection, ConnectionRequest(url="ws://127.0.0.1:1/")))
    assert len(splitter.feed(its.recv(1 << 20))) == 2 * OPENS_AT_ONCE, "in the pass of the loop in which they were made"
    await asyncio.sleep(0.01)
    assert len(splitter.feed(its.recv(1 << 20))) == 1
    channel.abort()
    its.close()


async def test_a_worker_that_does_not_read_is_asked_for_so_many_bytes_and_no_more(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 12b of the review: 240 MB of sends to a stopped worker took 500 MiB of the service."""
    monkeypatch.setattr("tests.service.fake_worker.FUNCTIONS", {"f": "m:f"})
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        worker.opened(1, new=True)
        await worker.expect(Stored)
        worker.channel.pause_reading()
        sends = [
            asyncio.create_task(service.sending.send(1, binary=True, payloads=[bytes(8_000_000)])) for _ in range(30)
        ]
        await until(lambda: sum(task.done() for task in sends) >= len(sends) - 4)
        refused = [task for task in sends if task.done()]
        waiting = [task for task in sends if not task.done()]
        assert 1 <= len(waiting) <= 4
        assert {type(task.exception()) for task in refused} == {Unavailable}
        for more in (
            service.connections.open(ConnectionRequest(url="ws://nowhere/")),
            service.workers.call("main", "f", []),
            service.workers.call_later("main", "f", []),
        ):
            with pytest.raises(Unavailable, match="does not read"):
                await more
        slot = service.workers.slots()[0]
        assert slot.channel is not None and slot.channel.waiting_bytes < 5 * 8_000_000
        worker.channel.resume_reading()
        for _ in waiting:
            command = await worker.expect(Send)
            worker.send(Sent(command.request, 1, 8_000_000, 1, 8_000_000))
        await asyncio.gather(*waiting)
        asking = asyncio.create_task(service.workers.call("main", "f", []))
        call = await worker.expect(Call)
        worker.send(Called(call.request, b"1"))
        assert await asking == b"1"


@pytest.mark.parametrize("link", ["read again", "lost"])
async def test_what_code_asks_for_waits_for_a_worker_that_does_not_read(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    monkeypatch.setattr("tests.service.fake_worker.FUNCTIONS", {"f": "m:f"})
    monkeypatch.setattr(slot_module, "COMMANDS_BYTES", 1_000_000)
    monkeypatch.setattr(channel_module, "WRITE_HIGH_BYTES", 250_000)
    async with running_service(tmp_path) as service:
        workers = []
        for name in ("main", "other"):
            starting = asyncio.create_task(service.workers.start(name))
            workers.append(await fakes.linked())
            await starting
        main, other = workers
        other.channel.pause_reading()
        for number in range(12):
            main.events(asks=[AskCall("other", "f", [number, "x" * 500_000])])
        await until(lambda: len(service._asks._waiting) == 1)
        slot = service.workers.slots()[1]
        assert slot.channel is not None and slot.channel.waiting_bytes < 2_000_000
        if link == "lost":
            other.hang_up()
            await other.lost()
            await other.dial()
            other.hello()
        else:
            other.channel.resume_reading()
        for number in range(12):
            call = await other.expect(Call)
            assert call.params[0] == number  # type: ignore[index]
            other.send(Taken(call.ask))


async def test_a_welcome_that_came_while_the_service_stood_still_was_in_time() -> None:
    slot = _slot()
    asyncio.get_running_loop().call_later(0.005, slot.ready.set_result, None)  # in the socket: read in the next pass
    slot.unlinked.set()
    await slot.until_welcomed(0.0)
    assert slot.ready.done()
