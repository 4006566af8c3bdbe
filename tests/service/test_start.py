"""A start on a disk that takes nothing: workers keep what they hold, and all goes on once there is room."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from mooring.errors import JournalUnavailable, Unavailable
from mooring.events import Kind
from mooring.link.messages import AskIds, GrantIds, Stop, Stored
from mooring.link.record import ConnectionUpdate
from mooring_service import service as service_module
from mooring_service.journal import file
from mooring_service.journal.journal import JournalUnusable
from mooring_service.processes import link_server
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, held, running_service, stalled_disk, told_of, until


async def _start(service: Service, fakes: FakeWorkers, name: str = "main") -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


async def test_while_the_journal_cannot_be_opened_workers_wait_at_the_link_and_are_welcomed_once_it_can(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "OPEN_RETRY_S", 0.05)
    monkeypatch.setattr(link_server, "PROBE_S", 0.05)
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
        worker.opened(1, new=True)
        await worker.expect(Stored)
    opens = file._open

    def full(*arguments: object) -> file.OpenFile:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(file, "_open", full)
    async with running_service(tmp_path) as service:
        readiness = service.readiness()
        assert not readiness.ready and any("journal" in why and "full" in why for why in readiness.reasons)
        assert service.restart_refusal is not None
        with pytest.raises(Unavailable, match=r"starting.*full"):
            service.check_started()
        await worker.dial()
        worker.hello(held(1, "main"))
        await until(lambda: len(worker.probed) >= 2)  # it hears that there is a service
        assert worker.linked and not service.workers.records()
        monkeypatch.setattr(file, "_open", opens)
        await until(lambda: service.workers.has("main") and service.workers.record("main").status == "Running")
        await until(lambda: service.readiness().ready)  # what it had found of others is settled a little later
        service.check_started()
        assert service.restart_refusal is None
        assert await told_of(service, 1) == [(1, "onOpen")]
        assert service.workers.record("main").pid == worker.pid


async def test_workers_are_welcomed_although_nothing_can_be_written(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.intake.GRANT_RETRY_S", 0.05)
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
        number = worker.opened(1, new=True)
        assert (await worker.expect(Stored)).number == number
    async with contextlib.AsyncExitStack() as both:
        with stalled_disk(tmp_path / "state"):
            service = await both.enter_async_context(running_service(tmp_path))
            welcome = await worker.link(held(1, "main"))
            assert (welcome.stored, welcome.id_count) == (number, 0)
            await until(lambda: service.workers.record("main").status == "Running")
            assert service.connections.record(1).status == "Connected"
            assert service.restart_refusal is not None and not service.readiness().ready
            with pytest.raises(JournalUnavailable):
                await service.workers.start("other")
            worker.send(AskIds())
            worker.events((1, 2, Kind.onMessage, "{}"), updates=[ConnectionUpdate(1, "Connected", 2)])
        assert (await worker.expect(GrantIds)).id_count > 0
        assert [seq for seq, _ in await told_of(service, 1)] == [1, 2]


async def test_a_service_that_is_stopped_before_its_journal_was_open_ends_nobody(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path, handover=True) as service:
        worker = await _start(service, fakes)
    opens = file._open
    monkeypatch.setattr(file, "_open", lambda *_: (_ for _ in ()).throw(apsw.IOError("disk I/O error")))
    async with running_service(tmp_path):
        await worker.dial()
        worker.hello()
    await worker.lost()
    monkeypatch.setattr(file, "_open", opens)
    async with running_service(tmp_path) as service:
        await worker.link()
        assert service.workers.record("main").pid == worker.pid
        killing = asyncio.create_task(service.workers.kill("main"))
        await worker.expect(Stop)
        await killing


async def test_a_journal_of_a_later_version_is_no_matter_of_waiting(tmp_path: Path) -> None:
    async with running_service(tmp_path):
        pass
    connection = apsw.Connection(str(tmp_path / "state" / "journal.db"))
    connection.execute("PRAGMA user_version = 99").fetchall()
    connection.close()
    with pytest.raises(JournalUnusable, match="later mooring"):
        async with running_service(tmp_path):
            pass
