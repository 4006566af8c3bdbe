"""What `GET /v1/cluster` says: this node, the engine, the log, and all nodes as the log tells of them. Leaf."""

from __future__ import annotations

import msgspec

from mooring.metrics import Histogram


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`status`: up, down, refused (`reason` says why). `lastAckMs`: since the log acknowledged something; `fitMs`: for how long this node
    could have judged others.
    """

    status: str
    reason: str | None
    server: str
    version: str
    last_ack_ms: int | None
    fit_ms: int


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`first`: the first message that the log holds, as far as was seen; `last`: up to where this node has read; `pending`: how many messages it knows of behind that; `lagMs`: for how long there were some.

    `failure`: why it is not read just now.
    """

    first: int
    last: int
    pending: int
    lag_ms: int
    failure: str | None


class UnreplicatedRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What this node has committed and the log has not acknowledged. An addition is what one frame of a worker brings."""

    additions: int
    events: int
    bytes: int
    oldest_seconds: float


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One node. `status`: Live, Suspect, Dead, Left. `lastSeenMs`: since a message of it was read; null: not since this service started."""

    name: str
    status: str
    life: str
    slot: int
    version: str
    url: str
    last_seen_ms: int | None
    connections: int
    workers: int
    room: int
    config_differs: bool


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The cluster as this node sees it."""

    name: str
    node: str
    life: str
    epoch: str
    engine: EngineRecord
    log: LogRecord
    unreplicated: UnreplicatedRecord
    nodes: list[NodeRecord]


class ClusterFigures(msgspec.Struct, frozen=True):
    """For metrics: what is counted since the start of the service."""

    nodes: dict[str, int]
    engine_up: bool
    ack: Histogram
    last_ack_age_s: float
    unreplicated: UnreplicatedRecord
    tail_lag_s: float
    messages: int
    bytes_total: int
    doubts: dict[str, int]
    rebuilds: dict[str, int]
    strangers: int
    fenced: int
    epochs: int
    takeovers: dict[str, int]
    forwards: dict[tuple[str, str], int] = {}
    forward_seconds: dict[str, Histogram] = {}
    diverged: bool = False
