"""The states of a kept connection, as a table, and what each step records. Pure: no clock, no I/O, no log.

CONNECTING ─▶ (RENEWING ─▶) DIALLING ─▶ OPENING ─▶ CONNECTED ─▶ CLOSING ─▶ CLOSED
     │            ▲             ▲          │           │
     └─▶ LIMITED ─┴─────────────┘          ▼           │
            ▲                            WAITING ◀─────┤ lost, and the policy says: again
            └──────────────────────────────┘           │
         BLOCKED ◀─── its worker is gone ──────────────┘ (from every state that is not CLOSING or CLOSED)

One id goes round here for each of its sockets; `connection/state` is the table of what is not kept. Whether it was ever ready is
no state: that is its socket number, 0 before the first. What the policy decides is decided before (`keep`): it comes in as the
event. A late word of a dead socket or attempt never comes here: its number is not the present one, so it is dropped.
"""

from __future__ import annotations

from enum import Enum

from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING, STATUS_CONNECTED, STATUS_CONNECTING, STATUS_RECONNECTING
from mooring.state_table import next_state


class KeptState(Enum):
    """Where an id is between its sockets. The value is for logs; see `status` and `phase` for what is shown."""

    CONNECTING = "created; its first attempt has not begun"
    WAITING = "the delay before the next attempt runs"
    LIMITED = "waits for the limiter of its host"
    RENEWING = "fetches what the attempt needs"
    DIALLING = "TCP, TLS, handshake"
    OPENING = "the server has answered 101; the opening steps run"
    CONNECTED = "a socket is ready"
    BLOCKED = "its worker is gone, and has not come back yet"
    CLOSING = "the end is decided, and the close handshake runs"
    CLOSED = "the end"


class KeptEvent(Enum):
    """What moves a kept connection."""

    TICKET_TAKEN = "it asks the limiter: the delay is over, an order came, or its worker is back"
    RENEW_BEGUN = "the attempt begins, and something must be fetched first"
    DIAL_BEGUN = "the attempt begins, or goes on with what was fetched"
    HANDSHAKE_DONE = "the server has answered 101 and the checks hold"
    READY = "all steps are done, or there are none"
    RETRY = "the attempt failed, or the ready socket ended, and the policy says: again"
    REDIAL = "the ready socket is given up for a new one, as somebody asked"
    WORKER_GONE = "the worker has died, is drained, or failed to start"
    CLOSE_BEGUN = "the end is decided while a socket is ready: its close handshake begins"
    ENDED = "nothing more will come: the end is decided, and no socket is in the way of it"


_S, _E = KeptState, KeptEvent
_OF_ATTEMPT = {_E.RETRY: _S.WAITING, _E.WORKER_GONE: _S.BLOCKED, _E.ENDED: _S.CLOSED}

TRANSITIONS: dict[KeptState, dict[KeptEvent, KeptState]] = {
    _S.CONNECTING: {
        _E.TICKET_TAKEN: _S.LIMITED,  # first "retry"; the one dial of "fail" does not wait
        _E.RENEW_BEGUN: _S.RENEWING,
        _E.DIAL_BEGUN: _S.DIALLING,
        _E.WORKER_GONE: _S.BLOCKED,
        _E.ENDED: _S.CLOSED,
    },
    _S.WAITING: {_E.TICKET_TAKEN: _S.LIMITED, _E.WORKER_GONE: _S.BLOCKED, _E.ENDED: _S.CLOSED},
    _S.LIMITED: {
        _E.RENEW_BEGUN: _S.RENEWING,
        _E.DIAL_BEGUN: _S.DIALLING,
        _E.WORKER_GONE: _S.BLOCKED,
        _E.ENDED: _S.CLOSED,
    },
    _S.RENEWING: {_E.DIAL_BEGUN: _S.DIALLING, **_OF_ATTEMPT},
    _S.DIALLING: {_E.HANDSHAKE_DONE: _S.OPENING, **_OF_ATTEMPT},
    _S.OPENING: {_E.READY: _S.CONNECTED, **_OF_ATTEMPT},
    _S.CONNECTED: {
        _E.RETRY: _S.WAITING,
        _E.REDIAL: _S.LIMITED,
        _E.WORKER_GONE: _S.BLOCKED,
        _E.CLOSE_BEGUN: _S.CLOSING,
        _E.ENDED: _S.CLOSED,
    },
    _S.BLOCKED: {
        _E.TICKET_TAKEN: _S.LIMITED,
        _E.WORKER_GONE: _S.BLOCKED,  # the new one died before it was told to open
        _E.ENDED: _S.CLOSED,
    },
    _S.CLOSING: {_E.ENDED: _S.CLOSED},  # never again, whatever the peer's code is, and whoever dies
    _S.CLOSED: {},
}

_PHASES = {
    _S.WAITING: "waiting",
    _S.LIMITED: "limited",
    _S.RENEWING: "renewing",
    _S.DIALLING: "dialling",
    _S.OPENING: "opening",
    _S.BLOCKED: "blocked",
}
_STATUSES = {_S.CONNECTED: STATUS_CONNECTED, _S.CLOSING: STATUS_CLOSING, _S.CLOSED: STATUS_CLOSED}

ORDERS_REDIAL = frozenset({_S.CONNECTED, _S.WAITING})
"""States in which an order for a new socket does something; in those of `UNDER_WAY` one is on its way already."""
UNDER_WAY = frozenset({_S.CONNECTING, _S.LIMITED, _S.RENEWING, _S.DIALLING, _S.OPENING, _S.BLOCKED})
MAY_QUEUE = UNDER_WAY - {_S.BLOCKED} | {_S.WAITING}
"""States in which a message waits or is refused, as ``whenDown`` says; while BLOCKED nobody is there to hold it."""


def step(state: KeptState, event: KeptEvent) -> KeptState:
    """Return the state after `event`.

    Raises:
        IllegalTransition: If `state` does not accept `event`.
    """
    return next_state(TRANSITIONS, state, event)


def status(state: KeptState, socket: int) -> str:
    """Return the public status. `socket`: the number of the last ready socket, 0 before the first."""
    return _STATUSES.get(state) or (STATUS_RECONNECTING if socket else STATUS_CONNECTING)


def phase(state: KeptState) -> str | None:
    """Return ``down.phase`` of the record; None: it is not down."""
    return _PHASES.get(state)


def records(state: KeptState, event: KeptEvent, socket: int, *, unsent: bool = False, error: bool = False) -> list[str]:
    """Return the kinds that `event` adds to the journal, in order: the law of kept connections, in one place.

    Args:
        state: Before `event`, which it accepts.
        socket: The number of the last ready socket before `event`, 0 before the first.
        unsent: Messages wait to be sent. They wait on over a loss, but not over the death of the worker that holds them.
        error: What ends it is an error (``onError``).
    """
    after = step(state, event)
    if after is _S.CONNECTED:
        return ["onReconnect" if socket else "onOpen"]
    if after is _S.CLOSED:
        return [*(["onUnsent"] if unsent else []), *(["onError"] if error else []), "onTerminate"]
    found = ["onDisconnect"] if state is _S.CONNECTED and after is not _S.CLOSING else []
    if event is _E.WORKER_GONE and unsent:
        found.append("onUnsent")
    return found
