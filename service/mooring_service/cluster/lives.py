"""Who lives: a judge over the others, and the fence over oneself. Functions of the time that they are handed. Pure.

All times are seconds of one clock that no jump moves and that a suspended machine does not stop (CLOCK_BOOTTIME).
"""

from __future__ import annotations

from enum import Enum
from hashlib import sha256

import msgspec

RANK_S = 1.0  # between two judges of one node: they need not conflict


class Standing(Enum):
    """Of a node, as it is shown."""

    LIVE = "Live"
    SUSPECT = "Suspect"
    DEAD = "Dead"
    LEFT = "Left"


class Timers(msgspec.Struct, frozen=True):
    """From `[cluster]`: what a judge waits for, how old what it knows may be, when a node doubts itself."""

    dead_after_s: float
    fit_s: float
    fence_s: float


class Peer(msgspec.Struct):
    """Another node, by its chain: `over` says how its life has ended (None: it lives)."""

    node: str
    life: str
    heard_at: float
    over: Standing | None = None


class Mark:
    """How far behind the tail is: what was acknowledged at a time has come by.

    "The tail has reached my last acknowledgement" is false at most instants of a busy node, so a mark is set, and waited for.
    """

    def __init__(self, now: float) -> None:
        self.fresh_at = now  # what was acknowledged by then has been read
        self._seq = 0
        self._set_at = now

    def look(self, now: float, acked_seq: int, applied: int) -> None:
        """Take how things are now."""
        if applied >= self._seq:
            self.fresh_at = self._set_at
            self._seq, self._set_at = acked_seq, now


class Judge:
    """Declares nodes dead that nobody has heard for too long, while it is itself fit to judge.

    Attributes:
        fit_since: Since when both its own messages are acknowledged and its tail is fresh; None while they are not.
        peers: By name.
    """

    def __init__(self, node: str, timers: Timers, now: float) -> None:
        self.node = node
        self._timers = timers
        self.fit_since: float | None = None
        self.peers: dict[str, Peer] = {}
        self._looked_at = now

    def heard(self, node: str, life: str, now: float) -> None:
        """A message of this life was read."""
        peer = self.peers.get(node)
        if peer is None or peer.life != life:
            self.peers[node] = Peer(node, life, now)
        else:
            peer.heard_at = now

    def ended(self, node: str, life: str, standing: Standing, now: float) -> None:
        """The log says that this life is over."""
        self.heard(node, life, now)
        self.peers[node].over = standing

    def look(self, now: float, acked_at: float, fresh_at: float) -> None:
        """Take whether it is fit: an outage of the engine is nobody's death, so all timers begin again after one.

        So they do after it stood still itself: a machine that was suspended has heard nobody, and acknowledgements may be the first to come.
        """
        oldest = min(acked_at, fresh_at, self._looked_at)
        fit = now - oldest <= self._timers.fit_s
        self._looked_at = now
        if not fit:
            self.fit_since = None
        elif self.fit_since is None:
            self.fit_since = now

    def standing(self, node: str, now: float) -> Standing:
        """Return how a node is shown."""
        peer = self.peers[node]
        if peer.over is not None:
            return peer.over
        return Standing.SUSPECT if now - peer.heard_at > self._timers.fit_s else Standing.LIVE

    def verdicts(self, now: float) -> list[Peer]:
        """Return whom to declare lost now."""
        if self.fit_since is None:
            return []
        found = []
        for peer in self.peers.values():
            if peer.node == self.node or peer.over is not None:
                continue
            judges = [other.node for other in self.peers.values() if other.over is None and other.node != peer.node]
            place = ranked(peer.node, {*judges, self.node}).index(self.node)
            if now - max(peer.heard_at, self.fit_since) > self._timers.dead_after_s + place * RANK_S:
                found.append(peer)
        return found


def ranked(key: str, nodes: set[str]) -> list[str]:
    """Return nodes in the order in which they are to see to `key`: the same everywhere."""
    return sorted(nodes, key=lambda node: sha256(f"{key}/{node}".encode()).digest())


def fenced(now: float, acked_at: float, timers: Timers) -> bool:
    """Say whether a node that last sent what was acknowledged at `acked_at` must take itself for cut off."""
    return now - acked_at > timers.fence_s
