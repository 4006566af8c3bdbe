"""For how long a node may take what it holds for its own: until others may have opened it, counted from what the log has acknowledged.

All times are those of `chain.now_s`, one clock for all processes of the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from mooring_service.cluster.chain import Chain, now_s
from mooring_service.cluster.lives import Timers, fenced
from mooring_service.cluster_config import ClusterConfig

SURE_S = 2.0  # so long before it would lapse, what goes on is told so: a Probe each second, and one that comes late


class Lease:
    """The lease of this node's persisted connections.

    Attributes:
        timers: Of the configuration.
        fenced: How often nothing was acknowledged for so long that this node had to take itself for cut off.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self.timers = Timers(config.dead_after, config.fit_s, config.fence_s)
        self._keeps = config.unsure == "keep"
        self._looked_at: float | None = None
        self._away_at = 0.0
        self._could = False
        self.fenced = 0
        self._was_fenced = False

    def look(self, now: float, acked_at: float) -> None:
        """Look whether this process was away itself for so long that others may have found it dead: then only the log can tell."""
        was, self._was_fenced = self._was_fenced, fenced(now, acked_at, self.timers)
        self.fenced += self._was_fenced and not was
        if self._is_away(now):
            self._away_at = now
        self._looked_at = now

    def may_again(self, may: bool) -> bool:
        """Take whether it may open what it holds now; return whether it may, and could not before."""
        could, self._could = self._could, may
        return may and not could

    def _is_away(self, now: float) -> bool:
        return self._looked_at is not None and now - self._looked_at > self.timers.fence_s

    def is_in_doubt(self, chain: Chain | None) -> bool:
        """Say whether this process stood still for so long that others may have found it dead, and only the log can tell."""
        return self._is_away(now_s()) or bool(self._away_at and _acked_at(chain) < self._away_at)

    def is_fenced(self, chain: Chain | None) -> bool:
        """Say whether nothing was acknowledged for so long that this node must take itself for cut off."""
        return fenced(now_s(), _acked_at(chain), self.timers)

    def holds(self, chain: Chain | None) -> bool:
        """Say whether nobody else can have taken this node for dead, or that is risked (`unsure = "keep"`)."""
        if self.is_in_doubt(chain):
            return False
        return self._keeps or not self.is_fenced(chain)

    def until(self, chain: Chain | None, persists: Callable[[], bool]) -> float:
        """Return until when a worker goes on if it hears nothing newer; 0.0: as was said before.

        Args:
            persists: Says whether it holds a persisted connection.
        """
        now = now_s()
        if self.is_in_doubt(chain):
            return 0.0
        acked_at = chain.state.acked_at if chain is not None and chain.messages else None
        # Not earlier: a service that freezes meanwhile has its sockets closed before an heir opens.
        if acked_at is not None and now - acked_at <= max(self.timers.fit_s, self.timers.fence_s - SURE_S):
            return acked_at + self.timers.fence_s
        if self._keeps or not persists():
            return now + self.timers.fence_s
        return 0.0 if acked_at is None else acked_at + self.timers.fence_s


def _acked_at(chain: Chain | None) -> float:
    return 0.0 if chain is None else chain.state.acked_at
