"""The pure rooms of the service: states, budgets, cursors, configuration."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.state_table import IllegalTransition
from mooring_service.config import Config, ConfigError, load
from mooring_service.journal.cursor import Broken, From, parse_cursor
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.worker_state import TRANSITIONS, WorkerEvent, WorkerState, step


def test_every_pair_of_worker_state_and_event_is_decided() -> None:
    for state, event in itertools.product(WorkerState, WorkerEvent):
        target = TRANSITIONS[state].get(event)
        if target is None:
            with pytest.raises(IllegalTransition):
                step(state, event)
        else:
            assert step(state, event) is target


def test_nothing_but_a_person_leaves_failed() -> None:
    assert set(TRANSITIONS[WorkerState.FAILED]) == {WorkerEvent.START, WorkerEvent.STOP}


def test_restarts_come_after_growing_delays_and_then_not_at_all() -> None:
    budget = RestartBudget(5, 60, 0.1, 1.0)
    delays = [budget.died(float(n), 1.0) for n in range(6)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, None]
    assert budget.died(61.0, 1.0) is not None, "a death a minute ago is forgotten"
    budget.reset()
    assert budget.died(61.0, 0.0) == 0.05, "jitter halves at most"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", From(4)),
        ("now", From(20)),
        ("e1-4", From(4)),
        ("e1-20", From(20)),
        ("e1-3", Broken("e1-3", 3)),
        ("e1-21", Broken("e1-21", 21)),
        ("e2-10", Broken("e2-10", None)),
        ("", Broken("", None)),
        ("e1-", Broken("e1-", None)),
        ("e1--1", Broken("e1--1", None)),
        ("e1-9223372036854775808", Broken("e1-9223372036854775808", 9223372036854775808)),
        ("e1-10\n", Broken("e1-10\n", None)),
        ("e1-\0", Broken("e1-\0", None)),
        ("e1-١٢", Broken("e1-١٢", None)),
    ],
)
def test_what_a_cursor_means(text: str, expected: From | Broken) -> None:
    assert parse_cursor(text, epoch="e1", first=5, last=20) == expected


@given(st.text(max_size=300))
def test_any_text_is_a_cursor_or_a_broken_one(text: str) -> None:
    assert isinstance(parse_cursor(text, epoch="e", first=1, last=10), From | Broken)


# ------------------------------------------------------------ configuration


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "mooring.toml"
    path.write_text(text)
    return load(path, environ)


def test_later_sources_win(tmp_path: Path) -> None:
    config = _load(tmp_path, "[limits]\nmax_connections = 5\nmax_workers = 7", MOORING_LIMITS_MAX_CONNECTIONS="6")
    assert (config.limits.max_connections, config.limits.max_workers) == (6, 7)
    config = load(None, {"MOORING_API_LISTEN": "127.0.0.1:1"}, {"api": {"listen": "127.0.0.1:2"}})
    assert config.api.listen == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[limits]\nmax_conections = 5", "max_connections"),
        ("[limit]\nmax_connections = 5", "limits"),
        ("[journal]\nlevel = 'powr'", "level"),
        ("[limits]\nmax_connections = -5", "max_connections"),
        ("[limits]\nmax_connections = '5'", "max_connections"),
        ("[handlers]\nx = 'no colon'", "x"),
        ("[egress]\nallow = ['10.0.0.0/99']", "egress.allow"),
        ("[tokens.ci]\nhash = 'plain'", "ci"),
        ("[tokens.ci]\nhash = 'sha256:00'\nscopes = ['all']", "scopes"),
        ("not toml", "mooring.toml"),
    ],
)
def test_a_wrong_configuration_names_the_place(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace(".", r"\.")):
        _load(tmp_path, text)


def test_an_unknown_variable_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONECTIONS": "5"})
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONNECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONNECTIONS": "many"})
