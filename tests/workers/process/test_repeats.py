"""Lines that repeat."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from mooring.process import repeats
from mooring.process.repeats import Repeats


def test_a_line_that_repeats_is_counted_instead_of_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(repeats, "time", SimpleNamespace(monotonic=lambda: now[0]))
    log = logging.getLogger("tests.repeats")
    log.addFilter(Repeats(window_s=10))
    with caplog.at_level(logging.INFO, log.name):
        for number in (*range(20), 20):
            now[0] += 11 if number == 20 else 0.4
            log.info("the same, again: %d", number)
        log.info("another line")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[:5] == [f"the same, again: {n}" for n in range(5)]
    assert texts[5:] == ["the same, again: 20 (15 lines like this one were not written)", "another line"]
    assert caplog.records[5].repeated == 15
