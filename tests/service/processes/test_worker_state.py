"""The states of a worker."""

from __future__ import annotations

import itertools

import pytest

from mooring.state_table import IllegalTransition
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
