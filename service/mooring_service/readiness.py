"""Whether requests can be served, and what is not as it should be."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from mooring_service.admission import Admission
from mooring_service.directory import Directory
from mooring_service.journal.journal import Journal
from mooring_service.processes.roster import Roster
from mooring_service.processes.worker_state import WorkerState


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served: `reasons` says what is not there, `degraded` names Failed workers, and what of a cluster is wrong,
    `hooks` Failing hooks. `down`: how many kept connections have been down for longer than ``[readiness] down_after``.
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]
    hooks: list[str]
    down: int | UnsetType = UNSET


class ClusterHealth(Protocol):
    """What a node tells of its cluster."""

    @property
    def reason(self) -> str | None:
        """Why requests cannot be served; None: they can."""

    @property
    def degraded(self) -> list[str]:
        """What of it is wrong."""


def readiness_of(
    admission: Admission,
    journal: Journal,
    roster: Roster,
    directory: Directory,
    cluster: ClusterHealth | None,
    failing_hooks: list[str],
    *,
    started: bool,
) -> Readiness:
    """Say whether requests can be served, and what is missing."""
    reasons: list[str] = []
    if admission.stopping:
        reasons.append("stopping")
    if not started:
        reasons.append("starting")
    if journal.failure is not None:
        reasons.append(f"journal: {journal.failure}")
    if roster.adopting:
        reasons.append(f"adopting: {', '.join(sorted(roster.adopting))}")
    degraded = [slot.name for slot in roster.slots() if slot.state is WorkerState.FAILED]
    if cluster is not None:
        if (reason := cluster.reason) is not None:
            reasons.append(reason)
        else:
            degraded += cluster.degraded
    down_after = admission.config.readiness.down_after
    down = directory.down_longer_than(down_after) if down_after else UNSET
    return Readiness(not reasons, reasons, degraded, failing_hooks, down)
