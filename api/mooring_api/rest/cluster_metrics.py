"""What ``/metrics`` tells of a node of a cluster; where there is no cluster it has none of it. Knows figures alone.

The names are those that alerts, panels and the runbook use; a test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mooring.metrics import Histogram
from mooring_service.cluster_records import ClusterFigures

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram | None
"""None: there is nothing to tell now."""
Samples = Iterable[tuple[tuple[str, ...], Value]]


class ClusterRow(NamedTuple):
    """One family: `read` returns its samples, values of the labels and the figure."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    read: Callable[[ClusterFigures], Samples]


def _one(read: Callable[[ClusterFigures], Value]) -> Callable[[ClusterFigures], Samples]:
    return lambda figures: [((), read(figures))]


def _each(read: Callable[[ClusterFigures], dict[str, int]]) -> Callable[[ClusterFigures], Samples]:
    return lambda figures: [((name,), count) for name, count in sorted(read(figures).items())]


def _forwards(figures: ClusterFigures) -> Samples:
    return sorted(figures.forwards.items())


def _forward_seconds(figures: ClusterFigures) -> Samples:
    return [((op,), taken) for op, taken in sorted(figures.forward_seconds.items())]


CLUSTER_ROWS = (
    ClusterRow("mooring_cluster_nodes", "gauge", "Nodes, by status.", ("status",), _each(lambda c: c.nodes)),
    ClusterRow("mooring_cluster_engine_up", "gauge", "1 while the engine is linked and takes what is published.", (), _one(lambda c: float(c.engine_up))),
    ClusterRow("mooring_cluster_ack_seconds", "histogram", "How long the engine takes to acknowledge a message.", (), _one(lambda c: c.ack)),
    ClusterRow("mooring_cluster_last_ack_age_seconds", "gauge", "Since the last acknowledged message was sent.", (), _one(lambda c: c.last_ack_age_s)),
    ClusterRow("mooring_cluster_unreplicated_additions", "gauge", "What was committed here and is not in the log yet.", (), _one(lambda c: c.unreplicated.additions)),
    ClusterRow("mooring_cluster_unreplicated_events", "gauge", "Its events.", (), _one(lambda c: c.unreplicated.events)),
    ClusterRow("mooring_cluster_unreplicated_bytes", "gauge", "Its bytes.", (), _one(lambda c: c.unreplicated.bytes)),
    ClusterRow("mooring_cluster_unreplicated_seconds", "gauge", "For how long there has been some.", (), _one(lambda c: c.unreplicated.oldest_seconds)),
    ClusterRow("mooring_cluster_tail_lag_seconds", "gauge", "For how long the log has had something that is not read here.", (), _one(lambda c: c.tail_lag_s)),
    ClusterRow("mooring_cluster_messages", "counter", "Messages of this node that the log has acknowledged.", (), _one(lambda c: c.messages)),
    ClusterRow("mooring_cluster_bytes", "counter", "Their bytes.", (), _one(lambda c: c.bytes_total)),
    ClusterRow("mooring_cluster_doubts", "counter", "How often nobody knew what became of a message, by what was found then.",
        ("outcome",), _each(lambda c: c.doubts)),
    ClusterRow("mooring_cluster_tail_rebuilds", "counter", "How often reading the log began anew, by why.", ("why",), _each(lambda c: c.rebuilds)),
    ClusterRow("mooring_cluster_takeovers", "counter",
        "Workers with connections that this node has taken over: the node that had them was found dead, or has left.",
        ("why",), _each(lambda c: c.takeovers)),
    ClusterRow("mooring_cluster_fenced", "counter", "How often nothing was acknowledged for so long that this node took itself for cut off.",
        (), _one(lambda c: c.fenced)),
    ClusterRow("mooring_cluster_epochs", "counter", "Names of the log that this node has read since its start: more than one, and the log went back.",
        (), _one(lambda c: c.epochs)),
    ClusterRow("mooring_cluster_divergence", "gauge", "1 once the log is not the one that was read before: it went back, or its replicas differ.",
        (), _one(lambda c: float(c.diverged))),
    ClusterRow("mooring_cluster_forwards", "counter", "Requests passed on to other nodes, by method and what became of them.",
        ("op", "outcome"), _forwards),
    ClusterRow("mooring_cluster_forward_seconds", "histogram", "How long they took.", ("op",), _forward_seconds),
    ClusterRow("mooring_cluster_strangers", "counter", "Messages of the log that were left out: damaged, or a stranger's.", (), _one(lambda c: c.strangers)),
)  # fmt: skip
"""The families of a node, in their order."""
