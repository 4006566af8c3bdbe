"""The states of a worker, as a table. Pure: no clock, no I/O, no log.

Only a person leaves FAILED (restart) or ends a worker for good (kill).
"""

from __future__ import annotations

from enum import Enum

from mooring.state_table import next_state


class WorkerState(Enum):
    """The value is the public spelling (contract, section 3)."""

    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = "Failed"


class WorkerEvent(Enum):
    """What moves a worker."""

    LINKED = "the process has said hello and was welcomed"
    LINK_LOST = "the link has ended while the process lives"
    DIED = "the process has ended unasked, and will be started again"
    GIVEN_UP = "the process has ended unasked, and the restart budget is used up"
    START = "a new process is being started"
    STOP = "it was told to end"
    ENDED = "the process has ended as told"


_S, _E = WorkerState, WorkerEvent

TRANSITIONS: dict[WorkerState, dict[WorkerEvent, WorkerState]] = {
    _S.STARTING: {
        _E.LINKED: _S.RUNNING,
        _E.DIED: _S.RESTARTING,
        _E.GIVEN_UP: _S.FAILED,
        _E.STOP: _S.STOPPING,
    },
    _S.RUNNING: {
        _E.LINK_LOST: _S.STARTING,  # it dials again, or turns out to be dead
        _E.DIED: _S.RESTARTING,
        _E.GIVEN_UP: _S.FAILED,
        _E.STOP: _S.STOPPING,
    },
    _S.RESTARTING: {_E.START: _S.STARTING, _E.STOP: _S.STOPPING},
    _S.STOPPING: {_E.ENDED: _S.STOPPED},
    _S.STOPPED: {_E.START: _S.STARTING},
    _S.FAILED: {_E.START: _S.STARTING, _E.STOP: _S.STOPPING},
}


def step(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Return the state after `event`.

    Raises:
        IllegalTransition: If `state` does not accept `event`.
    """
    return next_state(TRANSITIONS, state, event)
