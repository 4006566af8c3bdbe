"""Commands of the service, as far as a runtime alone can show them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mooring.link.messages import Call, Called, Report, Taken, WorkerSettings
from mooring.process.commands import obey
from mooring.process.runtime import Runtime

ran: list[int] = []
SETTINGS = WorkerSettings(
    worker="w", incarnation="i", secret="s", socket_path="", log_file="", exit_record="", orphan_time_s=0
)


def note(number: int) -> None:
    """Note that it has run."""
    ran.append(number)


class Uplink:
    """A service that takes everything."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def send(self, report: Report) -> None:
        self.reports.append(report)

    def send_frame(self, data: bytes) -> bool:
        return True

    def ask_ids(self) -> None:
        pass


@pytest.fixture
async def uplink() -> Uplink:
    return Uplink()


@pytest.fixture
async def runtime(uplink: Uplink) -> AsyncIterator[Runtime]:
    ran.clear()
    found = Runtime(SETTINGS, uplink)
    found.start()
    yield found
    found.context.finish()
    await asyncio.wait_for(found.context.thread.ended.wait(), 60)
    await found.close()


def _asked(number: int) -> Call:
    return Call(0, "note", f"{__name__}:note", [number], ask=number)


async def test_what_was_asked_for_runs_once_however_often_it_is_sent_and_each_time_it_says_so(
    runtime: Runtime, uplink: Uplink
) -> None:
    for number in (3, 5, 3, 5, 6):  # 4 was for another worker; then all that was not known to be taken, again
        obey(runtime, _asked(number))
    obey(runtime, Call(1, "note", f"{__name__}:note", [0]))
    async with asyncio.timeout(60):
        while not any(isinstance(report, Called) for report in uplink.reports):
            await asyncio.sleep(0.005)
    assert ran == [3, 5, 6, 0]
    assert [report.ask for report in uplink.reports if isinstance(report, Taken)] == [3, 5, 3, 5, 6]


async def test_a_worker_that_runs_down_takes_nothing_that_was_asked_for(runtime: Runtime, uplink: Uplink) -> None:
    runtime.stopping = True
    obey(runtime, _asked(1))
    assert uplink.reports == [] and runtime.last_ask == 0
