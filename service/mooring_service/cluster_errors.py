"""What can be wrong because a service is one of several. Leaf."""

from __future__ import annotations

from mooring.errors import MooringError


class EngineDown(MooringError):
    """The engine, or what is to be read of the log, is away: nobody can tell what the other nodes know."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"the cluster's engine cannot be asked: {self.reason}"


class NodeUnreachable(MooringError):
    """The node that holds what is meant is gone: nothing was done."""

    def __init__(self, node: str) -> None:
        self.node = node

    def __str__(self) -> str:
        return f"the node {self.node!r} cannot be reached"


class NodeSilent(MooringError):
    """The node that holds what is meant has not answered: it may have done what was asked."""

    def __init__(self, node: str) -> None:
        self.node = node

    def __str__(self) -> str:
        return f"the node {self.node!r} has not answered in time: the outcome is not known; the same Idempotency-Key is safe"


class Elsewhere(MooringError):
    """Another node has what was meant for this one: nothing was done. `asked`: the node that it was asked for at, against that."""

    def __init__(self, what: str, node: str, asked: str | None = None) -> None:
        self.what = what
        self.node = node
        self.asked = asked

    def __str__(self) -> str:
        return f"{self.what} is at the node {self.node!r}" + (f", not at {self.asked!r}" if self.asked else "")
