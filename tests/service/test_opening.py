"""Opening, where a deadline would be too long to wait for through the API; the worker is a real process all the same."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from mooring.dial_options import ProxySettings
from mooring.errors import WorkerTooOld
from mooring.link.messages import PROTOCOL_VERSION, Open, Opened
from mooring.options import OPTIONS, ConnectionRequest, HandlerRequest
from mooring_api.rest.problems import problem_of
from mooring_service import opening
from mooring_service.config import Config, DialConfig, JournalConfig
from mooring_service.journal import pace
from mooring_service.journal.batch import Append
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.journal.writer import Item
from mooring_service.opening import OpenError
from mooring_service.service import Service
from tests.conftest import ROOT
from tests.scripted import Scripted
from tests.servers import EchoServer
from tests.service.fake_worker import FakeWorkers, running_service, until


async def test_what_the_worker_does_not_come_to_in_time_is_given_up_and_never_opened(
    tmp_path: Path, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SILENT_S", 0.2)
    module = "tests.end_to_end.user_code"
    config = Config(handlers={"h": f"{module}:Recorder"}, functions={"hold": f"{module}:hold", "pid": f"{module}:pid"})
    service = Service(config, tmp_path, MemoryJournal(JournalConfig(store="memory")), app_dirs=[str(ROOT)])
    await service.start()
    try:
        held = tmp_path / "held"
        held.touch()  # nothing but the time of the request ends what waits for the context
        await service.workers.call_later("main", "hold", [str(held)])
        request = ConnectionRequest(url=echo.url, handler=HandlerRequest(name="h"), connect_timeout=0.3)
        begun = await service.connections.open(request)
        with pytest.raises(OpenError) as caught:
            await asyncio.wait_for(begun.done, 60)
        assert caught.value.timed_out and caught.value.connection == begun.connection
        record = service.connections.record(begun.connection)
        assert record.status == "Closed" and record.errors == caught.value.errors
        held.unlink()
        await service.workers.call("main", "pid", [])  # the context has come past it
        assert echo.peers == []
    finally:
        await service.stop()


async def test_a_handlers_recipe_has_its_own_time(tmp_path: Path) -> None:
    later = asyncio.Event()

    async def thinks(server: Scripted, socket: web.WebSocketResponse) -> None:
        text = await server.hear(socket)
        await later.wait()  # the request, which names no recipe, has had its time by then
        await socket.send_str(f"welcome {text}")
        await server.listen(socket)

    config = Config(handlers={"h": "tests.end_to_end.recipe_code:Renews"})
    service = Service(config, tmp_path, MemoryJournal(JournalConfig(store="memory")), app_dirs=[str(ROOT)])
    await service.start()
    try:
        await service.workers.start("main")
        async with Scripted(thinks) as server:
            begun = await service.connections.open(ConnectionRequest(url=server.url, handler=HandlerRequest(name="h")))
            await until(lambda: service.directory.entry(begun.connection).created.attempt_s)
            requests = service._roster.slot("main")._requests
            requests._waiting = {number: (future, 0.0) for number, (future, _) in requests._waiting.items()}
            await until(lambda: not requests._waiting)
            later.set()
            assert (await asyncio.wait_for(begun.done, 60)).status == "Connected"
    finally:
        await service.stop()


async def test_a_worker_of_an_older_program_is_not_asked_for_what_it_does_not_know(
    tmp_path: Path, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(Config(), tmp_path, MemoryJournal(JournalConfig(store="memory")), app_dirs=[])
    await service.start()
    try:
        await service.workers.start("main")
        slot = service._roster.slot("main")
        assert slot.version == PROTOCOL_VERSION
        monkeypatch.setitem(OPTIONS, "compress", msgspec.structs.replace(OPTIONS["compress"], since=PROTOCOL_VERSION))
        slot.version = PROTOCOL_VERSION - 1  # as if its Hello had said so
        with pytest.raises(WorkerTooOld, match=r"does not know compress.*drain main") as refused:
            await service.connections.open(ConnectionRequest(url=echo.url, compress=True))
        assert problem_of(refused.value).status == 409
        assert slot.linked, "the link is not broken by it"
        opened = await service.connections.open(ConnectionRequest(url=echo.url))
        assert (await opened.done).status == "Connected"
        # It would not find the default proxy in what it is told, and dial directly.
        proxies = {"corp": ProxySettings(url="http://127.0.0.1:1")}
        service.reconfigure(Config(dial=DialConfig(proxy="corp"), proxies=proxies))
        slot.version = OPTIONS["proxy"].since - 1
        with pytest.raises(WorkerTooOld, match="does not know proxy"):
            await service.connections.open(ConnectionRequest(url=echo.url))
        opened = await service.connections.open(ConnectionRequest(url=echo.url, proxy=None))
        assert (await opened.done).status == "Connected"
    finally:
        await service.stop()


async def test_opens_that_come_together_share_commits_and_frames(tmp_path: Path, echo: EchoServer) -> None:
    count = 64
    journal = SqliteJournal(tmp_path / "journal.db", JournalConfig())
    service = Service(Config(), tmp_path, journal, app_dirs=[])
    await service.start()
    try:
        await service.workers.start("main")
        slot = service._roster.slot("main")
        commits, frames = journal.stats().commits, slot.stored
        begun = await asyncio.gather(*(service.connections.open(ConnectionRequest(url=echo.url)) for _ in range(count)))
        intents = journal.stats().commits - commits
        records = await asyncio.gather(*(one.done for one in begun))
        assert {record.status for record in records} == {"Connected"}
        assert all(record.last_event_id for record in records), "behind the commit of its onOpen"
        assert intents < count, "the intents of many share a transaction"
        assert slot.stored - frames < count, "so do the events, and a frame of the worker before"
        assert journal.stats().commits - commits < count
    finally:
        await service.stop()


async def test_neither_the_intent_nor_the_opening_of_what_a_request_waits_for_keeps_to_the_pace_of_the_journal(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        monkeypatch.setattr(pace, "GROUP_S", 600.0)
        await _load(service)
        creating = asyncio.create_task(service.connections.open(ConnectionRequest(url="ws://127.0.0.1:1/")))
        order = await worker.expect(Open)
        begun = await creating
        await _load(service)
        stored = worker.opened(order.connection)
        worker.send(Opened(order.request, stored))
        assert (await asyncio.wait_for(begun.done, 60)).status == "Connected"


async def test_the_order_is_on_its_way_in_the_step_in_which_the_intent_is_known_to_be_stored(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        (slot,) = service.workers.slots()
        begun = await service.connections.open(ConnectionRequest(url="ws://127.0.0.1:1/"))
        assert slot.channel is not None and slot.channel.queued == 1
        order = await worker.expect(Open)
        worker.send(Opened(order.request, worker.opened(order.connection)))
        assert (await asyncio.wait_for(begun.done, 60)).status == "Connected"


async def _load(service: Service) -> None:
    """Have the journal take it that it is under load: from now on a commit waits for `GROUP_S`, if it waits."""
    journal = service.journal
    assert isinstance(journal, SqliteJournal)
    while journal._writer._pace.due_s(0) <= time.monotonic():
        committed = asyncio.get_running_loop().create_future()
        addition = Append()
        journal.put(Item(addition, None, None, False, 0), Item(addition, None, committed, False, 0))
        journal.hurry()
        await committed


async def test_who_waits_for_an_open_that_is_given_up_before_it_has_begun_waits_no_longer(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        linking = asyncio.create_task(fakes.linked())
        found = await service.connections.open(ConnectionRequest(url="ws://127.0.0.1:9/"))
        await service._openings.close()  # in the step in which the task was made
        async with asyncio.timeout(60):
            await asyncio.wait({found.done})
        assert found.done.cancelled()
        await linking
