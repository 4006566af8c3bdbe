"""The service's end of the link: who is let in, what each is told, and whose loss counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from mooring.link.messages import Goodbye, Probe, Reconfigure, Refused, Stats, Welcome
from mooring_service.config import Config, EgressConfig
from mooring_service.processes import link_server
from tests.service.fake_worker import FakeWorkers, running_service, until


async def test_a_worker_that_was_being_started_when_the_policy_changed_has_the_new_one(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        service.reconfigure(Config(egress=EgressConfig(deny=["127.0.0.0/8"])))
        await worker.link()
        assert (await worker.expect(Reconfigure)).egress_deny == ["127.0.0.0/8"]
        await starting


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"secret": "guessed"}, "wrong secret"),
        ({"incarnation": "0" * 16}, "does not know it"),
        ({"pid": 1}, "not the one that it says it is"),
        ({"version": 0, "oldest_version": 0}, "link versions"),
        ({"oldest_version": 99, "version": 99}, "link versions"),
    ],
)
async def test_who_is_not_what_it_says_is_refused_and_told_to_drain(
    tmp_path: Path, fakes: FakeWorkers, wrong: dict[str, object], reason: str
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        await worker.dial()
        worker.send(msgspec.structs.replace(worker.greeting(), **wrong))
        refused = await worker.expect(Refused)
        assert reason in refused.reason and refused.drain
        await worker.lost()
        assert service.workers.record("main").status == "Starting"
        starting.cancel()


async def test_what_does_not_begin_with_hello_is_cut_off(tmp_path: Path, fakes: FakeWorkers) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        await worker.dial()
        worker.send(Stats())
        await worker.lost()
        await worker.link()
        assert (await starting)[0].status == "Running"


async def test_a_second_link_of_the_same_process_is_refused_and_its_end_is_not_that_of_the_first(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        first = worker.channel
        await worker.dial()
        worker.hello()
        refused = await worker.expect(Refused)
        assert "another stream" in refused.reason and not refused.drain
        await worker.lost()
        assert service.workers.record("main").status == "Running"
        first.abort()
        await until(lambda: service.workers.record("main").status == "Starting")
        await worker.link()
        assert service.workers.record("main").status == "Running"


@pytest.mark.parametrize("packed", [b"\xc0", b"\x91\x91\xa1x", b"\x90"])
async def test_a_hello_that_names_what_is_no_connection_ends_its_link(
    tmp_path: Path, fakes: FakeWorkers, packed: bytes
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        await worker.dial()
        worker.send(msgspec.structs.replace(worker.greeting(), connections=[msgspec.Raw(packed)]))
        await worker.lost()
        await worker.link()
        assert (await starting)[0].pid == worker.pid


async def test_a_hello_whose_records_cannot_be_read_is_a_line_of_the_log(
    tmp_path: Path, fakes: FakeWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        await worker.dial()
        worker.send(msgspec.structs.replace(worker.greeting(), connections=[msgspec.Raw(b"\x91\x91\x01")]))
        assert (await starting)[0].pid == worker.pid
    assert [line for line in caplog.messages if "cannot be understood" in line]


async def test_a_hello_that_came_while_the_service_stood_still_was_in_time(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "HELLO_TIMEOUT_S", 0.0)
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.come()
        await worker.dial(at_once=worker.greeting())
        await worker.expect(Welcome)
        await starting
        worker.hang_up()
        await worker.lost()
        await worker.dial()
        await worker.lost()  # who says nothing is cut off all the same


async def test_what_a_worker_has_said_before_it_went_is_taken_also_where_a_write_tells_of_that(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path) as service:
        starting = asyncio.create_task(service.workers.start("main"))
        worker = await fakes.linked()
        await starting
        slot = service._roster.slot("main")
        assert slot.channel is not None
        worker.send(Goodbye(3, 2))
        worker.channel.close()
        await asyncio.sleep(0)
        slot.channel.send(Probe())  # in the pass in which it closes: nothing is read before
        slot.channel.flush()
        await until(slot.unlinked.is_set)
        assert slot.goodbye == Goodbye(3, 2)
