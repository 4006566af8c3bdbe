"""The way up: what a worker may say, and what becomes of one that says something else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring.link.messages import Called, Events, Stats, Stored
from mooring.link.record import ConnectionUpdate
from mooring_service import window
from mooring_service.journal.batch import Append
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, created_of, running_service, stalled_disk, told_of, until

ONE = (1).to_bytes(8, "little")

# Frames that no worker of ours sends: its process is shared with code that may send anything.
WRONG: dict[str, Events] = {
    "columns that do not fit": Events(2, b"123", b"\x02", b"{}"),
    "fewer bodies than events": Events(2, ONE * 2, b"\x02\x02", b"{}"),
    "more bodies than events": Events(2, ONE, b"\x02", b"{}\n{}"),
    "bodies without an event": Events(2, b"", b"", b"{}"),
    "a kind that is none": Events(2, ONE, b"\xff", b"{}"),
    "a gap, which belongs to streams": Events(2, ONE, bytes((Kind.gap,)), b"{}"),
    "a number that SQLite cannot hold": Events(2**63, ONE, b"\x02", b"{}"),
    "an id that SQLite cannot hold": Events(2, b"", b"", b"", [], [ConnectionUpdate(2**63, "Connected", 1)]),
    "a connection of another worker": Events(2, b"", b"", b"", [created_of(9, "other")]),
}


async def _start(service: Service, fakes: FakeWorkers, name: str) -> FakeWorker:
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    return worker


@pytest.mark.parametrize("what", WRONG)
async def test_a_frame_that_cannot_be_stored_ends_the_link_that_it_came_on_and_nothing_else(
    tmp_path: Path, fakes: FakeWorkers, what: str
) -> None:
    async with running_service(tmp_path) as service:
        wrong, right = [await _start(service, fakes, name) for name in ("wrong", "right")]
        wrong.opened(1, new=True)
        wrong.send(WRONG[what])
        await wrong.lost()
        number = right.opened(2, new=True)
        assert (await right.expect(Stored)).number == number
        assert await told_of(service, 1) == [(1, "onOpen")], "what came before it is stored"
        assert await told_of(service, 2) == [(1, "onOpen")]
        await wrong.link()
        assert service.workers.record("wrong").pid == wrong.pid


async def test_a_worker_that_says_it_again_and_again_is_ended_and_its_connections_are_told(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, probe_interval=0.05, restart_delay=30) as service:
        worker = await _start(service, fakes, "main")
        worker.opened(1, new=True)
        await worker.expect(Stored)
        for attempt in range(3):
            worker.send(WRONG["columns that do not fit"])
            await worker.lost()
            if attempt < 2:
                await worker.link()
        await until(lambda: service.workers.record("main").status == "Restarting")
        assert "cannot be understood" in (service.workers.record("main").reason or "")
        assert await told_of(service, 1) == [(1, "onOpen"), (2, "onTerminate")]


async def test_faults_of_a_link_do_not_add_up_over_what_is_stored_between_them(
    tmp_path: Path, fakes: FakeWorkers
) -> None:
    async with running_service(tmp_path, probe_interval=0.05) as service:
        worker = await _start(service, fakes, "main")
        for connection in range(1, 5):
            number = worker.opened(connection, new=True)
            assert (await worker.expect(Stored)).number == number
            worker.send(Events(number + 1, b"123", b"\x02", b"{}"))
            await worker.lost()
            await worker.link()
        await asyncio.sleep(0.2)
        assert service.workers.record("main").pid == worker.pid


def test_what_is_empty_can_be_stored() -> None:
    assert Append().wrong is None


async def test_while_the_queue_of_the_journal_is_full_all_but_events_still_passes(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 2 of the review, the other half: back-pressure must not stop what else travels on the same stream."""
    monkeypatch.setattr(window, "QUEUE_HIGH_BYTES", 4_000_000)
    monkeypatch.setattr(window, "WINDOW_MIN_BYTES", 1)
    async with running_service(tmp_path) as service:
        workers = [await _start(service, fakes, name) for name in ("a", "b")]
        for connection, worker in enumerate(workers, 1):
            worker.opened(connection, new=True)
            assert (await worker.expect(Stored)).window_bytes == 2_000_000, "each has its part"
        slots = service.workers.slots()
        with stalled_disk(service.state_dir):
            for connection, worker in enumerate(workers, 1):
                for seq in (2, 3):  # the second one crosses the window, as it may
                    worker.message(connection, seq, 1_100_000)
            await until(lambda: service.journal.queued_bytes > 4_000_000)
            for slot, worker in zip(slots, workers, strict=True):
                number, answer = slot.request(60.0)
                worker.send(Called(number, b"1"))
                worker.send(Stats(mailbox=7))
                assert (await answer).result == b"1"
                await until(lambda slot=slot: slot.stats.mailbox == 7)
                assert slot.reading
        for connection, worker in enumerate(workers, 1):
            while (await worker.expect(Stored)).number < 3:
                pass
            assert [seq for seq, _ in await told_of(service, connection)] == [1, 2, 3]
        assert [slot.unstored_bytes for slot in slots] == [0, 0]


async def test_one_that_keeps_to_no_window_is_not_read_while_the_queue_is_full(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "QUEUE_HIGH_BYTES", 1_000_000)
    async with running_service(tmp_path) as service:
        old, new, false = [await _start(service, fakes, name) for name in ("a-old", "b-new", "c-false")]
        service.workers.slots()[0].version = 2  # as if its hello had said so
        with stalled_disk(service.state_dir):
            for connection, worker in enumerate((old, new, false), 1):
                worker.opened(connection, new=True)
                worker.message(connection, 2, 600_000)
            for seq in range(3, 20):
                false.message(3, seq, 600_000)
            old.message(1, 3, 1_000)
            await until(lambda: [slot.reading for slot in service.workers.slots()] == [False, True, False])
        for connection, worker, last in ((1, old, 3), (2, new, 2), (3, false, 19)):
            while (await worker.expect(Stored)).number < last:
                pass
            assert [seq for seq, _ in await told_of(service, connection)] == list(range(1, last + 1))
