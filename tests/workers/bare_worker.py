"""A worker's runtime in the loop of a test, with a link that the test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mooring.link.messages import Events, Report, WorkerSettings, report_decoder
from mooring.process.runtime import Runtime
from mooring.process.stopping import run_down
from mooring.usercode import current


class Service:
    """What a runtime reports, and whether its frames are taken; what was taken is stored when the test says so."""

    def __init__(self) -> None:
        self.takes_frames = True
        self.answers: list[Report] = []
        self.frames: list[Events] = []
        self.asked_ids = 0

    def send(self, report: Report) -> None:
        self.answers.append(report)

    def send_frame(self, data: bytes) -> bool:
        if self.takes_frames:
            report = report_decoder.decode(data[4:])
            assert isinstance(report, Events)
            self.frames.append(report)
        return self.takes_frames

    def ask_ids(self) -> None:
        self.asked_ids += 1


@asynccontextmanager
async def bare_worker(service: Service, **settings: Any) -> AsyncIterator[Runtime]:
    """A started runtime; it is the one of this process."""
    made = WorkerSettings(
        worker="test", incarnation="test", secret="", socket_path="", log_file="", exit_record="", **settings
    )
    runtime = Runtime(made, service)
    runtime.start()
    current.set_runtime(runtime)
    try:
        yield runtime
    finally:
        await run_down(runtime, "the test has ended", 2.0)
        current.set_runtime(None)
