"""For how long a node may take what it holds for its own: until others may have opened it, counted from what the log has acknowledged.

All times are those of `chain.now_s`, one clock for all processes of the machine.
"""

from __future__ import annotations

from mooring_service.cluster.chain import Chain, now_s
from mooring_service.cluster.lives import Timers, fenced
from mooring_service.cluster_config import ClusterConfig


class Lease:
    """The lease of this node's persisted connections.

    Attributes:
        timers: Of the configuration.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self.timers = Timers(config.dead_after, config.fit_s, config.fence_s)
        self._keeps = config.unsure == "keep"

    def holds(self, chain: Chain | None) -> bool:
        """Say whether nobody else can have taken this node for dead, or that is risked (`unsure = "keep"`)."""
        return self._keeps or (chain is not None and not fenced(now_s(), chain.state.acked_at, self.timers))

    def until(self, chain: Chain | None, *, persists: bool) -> float:
        """Return until when a worker goes on if it hears nothing newer; 0.0: as was said before.

        Args:
            persists: It holds a persisted connection.
        """
        if self._keeps or not persists:
            return now_s() + self.timers.fence_s
        if chain is None or not chain.messages:  # nothing is acknowledged since this start
            return 0.0
        return chain.state.acked_at + self.timers.fence_s
