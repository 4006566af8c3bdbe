"""State machines as tables: state → event → next state. Leaf."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


class IllegalTransition(Exception):
    """An event that the state does not accept; nothing was changed."""

    def __init__(self, state: Enum, event: Enum) -> None:
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{self.state.name} does not accept {self.event.name}"


def next_state(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        IllegalTransition: If `state` does not accept `event`.
    """
    try:
        return table[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
