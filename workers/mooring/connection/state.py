"""The states of a connection, as a table. Pure: no clock, no I/O, no log.

CONNECTING ──HANDSHAKE_DONE──▶ CONNECTED ──CLOSE_BEGUN──▶ CLOSING ──ENDED──▶ CLOSED
     └───────────ENDED──────────────┴──────────────────────────ENDED──────────▶

CLOSED accepts nothing. What ended a connection is not a state: it is kept beside it (`Terminated`).
"""

from __future__ import annotations

from enum import Enum

from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING, STATUS_CONNECTED, STATUS_CONNECTING, STATUS_RECONNECTING
from mooring.state_table import next_state


class ConnectionState(Enum):
    """The value is the public spelling (contract, section 2). A kept connection stands in one of them, too, but is moved by
    `kept_state`: RECONNECTING is its alone, and no event here leads to it or from it."""

    CONNECTING = STATUS_CONNECTING
    CONNECTED = STATUS_CONNECTED
    RECONNECTING = STATUS_RECONNECTING
    CLOSING = STATUS_CLOSING
    CLOSED = STATUS_CLOSED

    def __init__(self, status: str) -> None:
        self.status = status  # the value as an attribute: `value` is two calls, and each event asks for it


class ConnectionEvent(Enum):
    """What moves a connection."""

    HANDSHAKE_DONE = "the server has answered 101 and the checks hold"
    CLOSE_BEGUN = "a close frame was sent or received, or the connection is failing"
    ENDED = "nothing more will come: the end is decided"


TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    ConnectionState.CONNECTING: {
        ConnectionEvent.HANDSHAKE_DONE: ConnectionState.CONNECTED,
        ConnectionEvent.ENDED: ConnectionState.CLOSED,
    },
    ConnectionState.CONNECTED: {
        ConnectionEvent.CLOSE_BEGUN: ConnectionState.CLOSING,
        ConnectionEvent.ENDED: ConnectionState.CLOSED,
    },
    ConnectionState.CLOSING: {
        ConnectionEvent.ENDED: ConnectionState.CLOSED,
    },
    ConnectionState.RECONNECTING: {},
    ConnectionState.CLOSED: {},
}


def step(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """Return the state after `event`.

    Raises:
        IllegalTransition: If `state` does not accept `event`.
    """
    return next_state(TRANSITIONS, state, event)
