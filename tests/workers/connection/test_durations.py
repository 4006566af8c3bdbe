"""What is measured of a connection is measured by a clock that does not jump."""

from __future__ import annotations

import itertools
import time

import pytest

from mooring.testing import LocalWorker, Server
from mooring.usercode import current


@pytest.mark.parametrize("step_s", [-3_600, 3_600])
def test_a_dial_takes_as_long_as_it_takes_while_the_wall_clock_is_set(
    monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    steps = itertools.count(1)
    with Server() as server, LocalWorker() as worker:
        metrics = current.runtime().metrics
        with monkeypatch.context() as set_clock:
            set_clock.setattr(time, "time_ns", lambda real=time.time_ns: real() + next(steps) * step_s * 10**9)
            began = time.monotonic()
            worker.open(server.url)
            took = time.monotonic() - began
        assert sum(metrics.dial.counts) == 1
        assert 0 <= metrics.dial.sum < took + 0.1  # in whole milliseconds
