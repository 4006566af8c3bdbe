"""What can be wrong because a service is one of several. Leaf."""

from __future__ import annotations

from mooring.errors import MooringError


class EngineDown(MooringError):
    """The engine, or what is to be read of the log, is away: nobody can tell what the other nodes know."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"the cluster's engine cannot be asked: {self.reason}"
