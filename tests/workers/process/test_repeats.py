"""Lines that repeat."""

from __future__ import annotations

import logging
import time

import pytest

from mooring.process.repeats import Repeats


def test_a_line_that_repeats_is_counted_instead_of_written(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.repeats")
    log.addFilter(Repeats(window_s=0.2))
    with caplog.at_level(logging.INFO, log.name):
        for number in (*range(20), 20):
            if number == 20:
                time.sleep(0.25)
            log.info("the same, again: %d", number)
        log.info("another line")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[:5] == [f"the same, again: {n}" for n in range(5)]
    assert texts[5:] == ["the same, again: 20 (15 lines like this one were not written)", "another line"]
    assert caplog.records[5].repeated == 15
