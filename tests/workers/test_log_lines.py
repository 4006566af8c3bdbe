"""How the worker's log is written."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from mooring.log_lines import LogLines, running_connection


def _record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("app", logging.WARNING, "app.py", 1, message, args, None)
    record.created = 1_700_000_000.25
    vars(record).update(fields)
    return record


def test_a_line_is_json_with_the_keys_of_the_services_log() -> None:
    form = LogLines("main", "0123456789abcdef", as_json=True)
    assert json.loads(form.format(_record("tick %d\n\x1b[2J", 7))) == {
        "event": "tick 7\n\x1b[2J",
        "level": "warning",
        "logger": "app",
        "worker": "main",
        "incarnation": "0123456789abcdef",
        "timestamp": "2023-11-14T22:13:20.250000Z",
    }
    assert "\n" not in form.format(_record("tick\n"))


def test_a_line_names_the_connection_whose_callback_runs() -> None:
    form = LogLines("main", "i", as_json=True)
    token = running_connection.set(17)
    try:
        assert json.loads(form.format(_record("x")))["connection"] == 17
        assert json.loads(form.format(_record("x", connection=18)))["connection"] == 18
    finally:
        running_connection.reset(token)
    assert "connection" not in json.loads(form.format(_record("x")))


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_stays_with_its_line(as_json: bool) -> None:
    form = LogLines("main", "i", as_json=as_json)
    record = _record("it failed", connection=3)
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    text = form.format(record)
    if as_json:
        line = json.loads(text)
        assert line["event"] == "it failed"
        assert line["exception"].endswith("ValueError: why")
    else:
        first, *rest = text.splitlines()
        assert first == "2023-11-14T22:13:20.250Z worker=main incarnation=i connection=3 WARNING app: it failed"
        assert rest[0].startswith("Traceback")


def test_a_message_that_is_no_unicode_is_written_all_the_same() -> None:
    form = LogLines("main", "i", as_json=True)
    assert json.loads(form.format(_record("lone \ud800")))["event"].startswith("lone ")


def test_a_line_with_fields_of_its_writers_own_is_written_all_the_same() -> None:
    form = LogLines("main", "i", as_json=True)
    line = json.loads(form.format(_record("x", connection=object(), exception=object(), repeated="often")))
    assert line.keys() == {"event", "level", "logger", "worker", "incarnation", "timestamp"}
