"""The states of a connection."""

from __future__ import annotations

import itertools

import pytest

from mooring.connection.state import TRANSITIONS, ConnectionEvent, ConnectionState, step
from mooring.state_table import IllegalTransition


def test_every_pair_of_state_and_event_is_decided() -> None:
    accepted = {(state, event): target for state, row in TRANSITIONS.items() for event, target in row.items()}
    for state, event in itertools.product(ConnectionState, ConnectionEvent):
        if (state, event) in accepted:
            assert step(state, event) is accepted[state, event]
        else:
            with pytest.raises(IllegalTransition):
                step(state, event)
    assert not TRANSITIONS[ConnectionState.CLOSED], "closed is the end"
    assert not TRANSITIONS[ConnectionState.RECONNECTING], (
        "only kept ones are there, and are moved by a table of their own"
    )
    for state in set(ConnectionState) - {ConnectionState.CLOSED, ConnectionState.RECONNECTING}:
        assert TRANSITIONS[state][ConnectionEvent.ENDED] is ConnectionState.CLOSED
