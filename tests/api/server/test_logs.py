"""The service's log, as terminals and machines get it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mooring_api.server import logs
from mooring_service.config import LogConfig


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _the_roots_handlers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def write_some() -> None:
    log = logging.getLogger("mooring.serve")
    log.info("worker main is\x1b[2J\nRunning", extra={"worker": "main", "incarnation": "0123", "connection": 17})
    secret = "-".join(("a", "token", "of", "somebody"))  # not as it stands: a traceback shows lines of code
    try:
        raise ValueError(f"{len(secret)}")
    except ValueError:
        log.exception("a request has failed")


def test_a_terminal_gets_key_value_lines_without_control_characters() -> None:
    terminal = Terminal()
    logs.set_up(LogConfig(), terminal)
    write_some()
    first = terminal.getvalue().splitlines()[0]
    assert "worker main is\\x1b[2J\\nRunning" in first
    for key, value in (("worker", "main"), ("incarnation", "0123"), ("connection", "17")):
        assert key in first
        assert value in first


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_traceback_shows_no_values_of_variables(stream: io.StringIO) -> None:
    logs.set_up(LogConfig(), stream)
    write_some()
    assert "ValueError: 19" in stream.getvalue()
    assert "a-token-of-somebody" not in stream.getvalue()


def test_off_a_terminal_each_line_is_a_json_object() -> None:
    stream = io.StringIO()
    logs.set_up(LogConfig(), stream)
    write_some()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["worker"], first["incarnation"], first["connection"]) == ("main", "0123", 17)
    assert "ValueError" in second["exception"]


def test_workers_that_fail_at_once_are_all_named() -> None:
    stream = io.StringIO()
    logs.set_up(LogConfig(), stream)
    for number in range(20):
        logging.getLogger("mooring.supervisor").error("worker w%d is Failed", number, extra={"worker": f"w{number}"})
    assert [json.loads(line)["worker"] for line in stream.getvalue().splitlines()] == [f"w{n}" for n in range(20)]
