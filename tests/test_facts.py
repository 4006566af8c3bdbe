"""One place per fact: what is declared in one place is complete there, and what stands beside it is held to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest
from click.testing import CliRunner
from msgspec import NODEFAULT

from mooring.connection.state import ConnectionState
from mooring.errors import UNUSED_CODES, ErrCode
from mooring.events import KINDS, Kind
from mooring.link.record import STATUSES
from mooring.options import HANDLER_OPTIONS, OPTIONS, ConnectionOptions, ConnectionRequest, effective
from mooring_api.commands.cli import COMMANDS, main
from mooring_api.commands.open import COMMON, body_of, open_command
from mooring_api.commands.words import COLOURS, in_words
from mooring_api.rest.app import ROUTES
from mooring_api.rest.openapi import Description
from mooring_service.processes.worker_state import WorkerState
from mooring_service.records import STATUS_TONES, WORKER_TONES
from tests.conftest import ROOT

CODE = [
    path
    for floor in ("workers/mooring", "service/mooring_service", "api/mooring_api")
    for path in (ROOT / floor).rglob("*.py")
]


def test_every_create_option_has_its_field_of_the_same_type_and_default() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(ConnectionOptions)}
    # What a preset was called, and what a handler can do, follow from what was asked for.
    assert set(fields) == {"url", "recipe_shown", "handler_renews"} | {
        OPTIONS[name].becomes for name in HANDLER_OPTIONS
    }
    types = get_type_hints(ConnectionOptions)
    for option in OPTIONS.values():
        # Headers become a list, and what was asked of staying becomes the whole policy.
        if option.by_handler and option.name not in ("headers", "reconnect"):
            expected = option.kind
            if option.default is NODEFAULT:  # what stands for nothing being said
                expected |= type(fields[option.becomes].default)
            assert types[option.becomes] == expected, option.name
    standing = msgspec.to_builtins(effective(ConnectionRequest(url="ws://a/")))
    for option in OPTIONS.values():
        if option.by_handler and option.default and option.default is not NODEFAULT:
            assert standing[option.becomes] == option.default, option.name


def test_a_default_is_within_its_own_bounds_and_says_what_it_is_for() -> None:
    for option in OPTIONS.values():
        assert option.doc and not option.doc.endswith(".")
        if option.low is not None:
            assert option.unit, f"{option.name}: a number has a unit"
            assert option.wrong(option.default) == []
            assert option.wrong(option.low) == [] == option.wrong(option.high)
            assert [wrong.pointer for wrong in option.wrong(float("nan"))] == [f"/{option.key}"]


def test_the_api_describes_the_options_as_they_are() -> None:
    described = Description(ROUTES).document["components"]["schemas"]["ConnectionRequest"]["properties"]
    assert list(described) == [option.key for option in OPTIONS.values()]
    for option in OPTIONS.values():
        schema = described[option.key]
        assert schema["description"].lower().startswith(option.doc.lower())
        if option.unit:
            assert (schema["default"], schema["maximum"]) == (option.default, option.high)


def test_open_offers_every_option_and_sends_what_was_said() -> None:
    offered = {param.name: param for param in open_command.params}
    assert set(OPTIONS) <= set(offered)
    shown = CliRunner().invoke(main, ["open", "--options"]).output
    told = CliRunner().invoke(main, ["open", "--help"]).output
    for option in OPTIONS.values():
        if option.name != "url":
            assert offered[option.name].opts[0] in shown, option.name
        if option.name in COMMON:
            assert offered[option.name].opts[0] in told, option.name
    given = {
        "connect_timeout": 1.5,
        "compress": False,
        "protocols": ("a", "b"),
        "headers": ("A: 1", "A: 2"),
        "tls": {"verify": False},
        "data_type": None,
    }
    body = body_of(given, "quotes", '{"a": 1}')
    assert json.loads(json.dumps(body)) == {
        "connectTimeout": 1.5, "compress": False, "protocols": ["a", "b"], "headers": {"A": ["1", "2"]},
        "tls": {"verify": False}, "handler": {"name": "quotes", "params": {"a": 1}},
    }  # fmt: skip
    assert msgspec.convert({"url": "wss://a", **json.loads(json.dumps(body))}, ConnectionRequest).connect_timeout == 1.5


@pytest.mark.parametrize("name", [option.name for option in OPTIONS.values() if option.name not in ("url", "handler")])
def test_each_option_of_open_is_parsed_to_what_the_api_takes(name: str) -> None:
    option = OPTIONS[name]
    (param,) = (param for param in open_command.params if param.name == name)
    kind = get_origin(option.kind) or option.kind
    by_kind: dict[Any, str] = {float: "3", int: "3", str: "w", list: "w"}
    text = {"headers": "A: 1", "tls": '{"verify": true}', "proxy": "http://a:1", "reconnect": '{"minDelay": 2}',
            "keep_alive": '{"within": 3}', "recipe": '{"opening": []}', "requests": "cdp"}.get(name, by_kind.get(kind, ""))  # fmt: skip
    if kind is Literal:
        text = get_args(option.kind)[-1]
    seen: list[dict[str, Any]] = []
    command = click.Command("open", params=[param], callback=lambda **given: seen.append(given))
    ran = CliRunner().invoke(command, [param.opts[0], text] if text else [param.opts[0]])
    assert ran.exit_code == 0, ran.output
    body = body_of(seen[0], None, None)
    assert set(body) == {option.key}
    msgspec.convert({"url": "wss://a", **body}, ConnectionRequest)


def test_every_kind_has_its_row() -> None:
    assert list(KINDS) == list(Kind)
    assert [int(kind) for kind in Kind] == list(range(1, len(Kind) + 1)), (
        "a number stays for ever: none is left out, none moves"
    )
    for kind, info in KINDS.items():
        names = {field.encode_name for field in msgspec.structs.fields(info.event)} | set(info.in_json)
        assert set(re.findall(r"\{(\w+)", info.words)) <= names, f"{kind.name}: {info.words}"
        assert info.tone in COLOURS
        assert not info.callback or info.callback == re.sub("([A-Z])", lambda m: "_" + m[1].lower(), kind.name)


WORDS = [
    ("onMessage", {"type": "message", "data": "a\tb"}, "a\\tb"),
    ("onMessage", {"type": "message", "data": {"n": 1}}, '{"n":1}'),
    ("onMessage", {"type": "message", "data": "AAE=", "encoding": "base64"}, "blob AAE="),
    ("onError", {"type": "error", "errors": [{"errCode": 102, "message": "x"}, {"errCode": 103, "message": "y"}]}, "102 x; 103 y"),
    ("onTerminate", {"type": "terminate", "code": 1000, "reason": "", "wasClean": True}, "1000 clean"),
    ("onTerminate", {"type": "terminate", "code": 1006, "reason": "gone {code}", "wasClean": False}, "1006 not clean gone {code}"),
    ("workerExited", {"pid": 5, "reason": "signal 9", "restarting": True}, "pid 5: signal 9; restarting"),
    ("gap", {"type": "gap", "lost": None}, "events are missing: an unknown number"),
    ("gap", {"type": "gap", "lost": 0}, "events are missing: 0"),
    ("nodeLost", {"node": "a", "connections": 1}, "a: 1 connection"),
    ("nodeLost", {"node": "a", "connections": 0}, "a: 0 connections"),
    ("hookSkipped", {"hook": "h", "count": 1, "from": "e-1", "through": "e-1"}, "h: 1 event, e-1 to e-1"),
    ("onUnsent", {"count": 2, "bytes": 1, "reason": "closed"}, "2 messages, 1 byte: closed"),
    ("onSomethingNew", {"a": 1}, '{"a":1}'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "event", "words"), WORDS)
def test_an_event_in_words(kind: str, event: dict[str, Any], words: str) -> None:
    assert in_words(kind, event) == words


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here: the console's own words are not compared")
def test_the_console_says_the_same_words(tmp_path: Path) -> None:
    console = ROOT / "api" / "mooring_api" / "console"
    (tmp_path / "facts.mjs").write_text((console / "facts.js").read_text())
    (tmp_path / "words.mjs").write_text((console / "words.js").read_text().replace("/console/facts.js", "./facts.mjs"))
    said = [{"kind": kind, "connection": 1, "event": event} for kind, event, _ in WORDS[1:]]
    (tmp_path / "run.mjs").write_text(
        "import { summary } from './words.mjs';\n"
        f"console.log(JSON.stringify({json.dumps(said)}.map((event) => summary(event))));"
    )
    run = subprocess.run(["node", tmp_path / "run.mjs"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [words for _, _, words in WORDS[1:]]


def test_every_error_code_is_sent_by_something_and_no_number_is_used_twice() -> None:
    code = "\n".join(path.read_text() for path in CODE)
    assert [one.name for one in ErrCode if not re.search(rf"ErrCode\.{one.name}\b", code)] == []
    assert not set(UNUSED_CODES) & set(map(int, ErrCode))
    for one in ErrCode:
        assert 100 <= one < 1000, "no WebSocket close code"
        assert one.meaning and one.remedy


def test_every_status_has_its_tone() -> None:
    assert tuple(STATUS_TONES) == STATUSES == tuple(state.value for state in ConnectionState)
    assert list(WORKER_TONES) == [state.value for state in WorkerState]
    assert set(STATUS_TONES.values()) | set(WORKER_TONES.values()) <= set(COLOURS)


def test_every_tone_has_its_colour_on_the_console() -> None:
    style = (ROOT / "api" / "mooring_api" / "console" / "style.css").read_text()
    used = set(STATUS_TONES.values()) | set(WORKER_TONES.values()) | {info.tone for info in KINDS.values()}
    assert set(re.findall(r"\.tone-(\w+)", style)) == used - {"plain"}, "what is plain has the colour of all text"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_its_help_with_its_line_and_says_more(name: str) -> None:
    ran = CliRunner().invoke(main, [name, "--help"])
    assert ran.exit_code == 0
    _, _, rest = ran.output.partition("\n\n")
    line, _, rest = rest.partition("\n\n")
    assert line.strip() == f"{COMMANDS[name][1]}."
    assert "Example" in rest


def test_a_number_that_two_floors_need_stands_once() -> None:
    pattern = re.compile(r"\[A-Za-z0-9\]\[A-Za-z0-9\._-\]")
    assert [path.name for path in CODE if pattern.search(path.read_text())] == ["checks.py"]
    for page in ("index.html", "main.js"):
        assert not pattern.search((ROOT / "api/mooring_api/console" / page).read_text().replace("\\", ""))
