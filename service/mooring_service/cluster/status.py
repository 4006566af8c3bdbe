"""What a node says of itself and of the others: `GET /v1/cluster`, and figures for metrics. It only looks."""

from __future__ import annotations

import time
from collections import Counter

from mooring.metrics import Histogram
from mooring_service.cluster.chain import now_s
from mooring_service.cluster.fold import NodeState
from mooring_service.cluster.lives import Standing
from mooring_service.cluster.node import Cluster
from mooring_service.cluster.replicator import State
from mooring_service.cluster_records import (
    ClusterFigures,
    ClusterRecord,
    EngineRecord,
    LogRecord,
    NodeRecord,
    UnreplicatedRecord,
)

LAG_S = 5.0  # above it this node is degraded
GONE_US = 86_400 * 10**6  # who is over is listed for so long


def engine_failure(cluster: Cluster) -> str | None:
    """Return why the log takes nothing just now; None if it does, as far as is known."""
    if not cluster.engine.up.is_set():
        return cluster.engine.failure
    if cluster.chain is None:
        return cluster.engine.refusal or "its place in the log is not known yet"
    if cluster.chain.state.state is State.BACK:
        return "the log has lost what it had acknowledged: nothing is published any more"
    return cluster.engine.refusal or cluster.chain.refusal or None  # what is not granted is seen as silence, too


def doubt_of(cluster: Cluster, *, asked: bool) -> str:
    """Return why what this node held may be another's by now; "" where that cannot be.

    `asked`: another node asks for something of it. That is done where nobody else can have it: a verdict needs a longer silence than the fence.
    """
    if cluster.own.over:
        return "this node was declared lost, and what it held ends"
    if cluster.lease.is_in_doubt(cluster.chain):
        return "this node stood still, and the log has not told yet whether others have what it held"
    if asked and cluster.lease.is_fenced(cluster.chain):
        return "nothing of this node is acknowledged, so others may have what it held"
    return ""


def degraded(cluster: Cluster) -> list[str]:
    """Return what is not as it should be, one sentence each."""
    found = []
    if failure := engine_failure(cluster):
        found.append(f"engine: {failure}")
    if cluster.tail.stopped:
        found.append(f"log: {cluster.tail.stopped}")
    elif cluster.tail.lag_s > LAG_S:
        found.append(f"log: {cluster.tail.lag_s:.0f} s behind")
    differing = [record.name for record in record_of(cluster).nodes if record.config_differs]
    if differing:
        found.append(f"configuration: differs at {', '.join(differing)}")
    return found


def record_of(cluster: Cluster) -> ClusterRecord:
    """Return the cluster as this node sees it."""
    now, chain, judge, engine, tail = now_s(), cluster.chain, cluster.judge, cluster.engine, cluster.tail
    failure = engine_failure(cluster)
    additions, size, oldest_s = cluster.backlog.tell(now, cluster.replicated)
    status = "down" if not engine.up.is_set() else "refused" if failure and (chain or engine.refusal) else "up"
    return ClusterRecord(
        name=cluster.name,
        node=cluster.node,
        life=cluster.life,
        epoch=cluster.fold.epoch,
        engine=EngineRecord(
            status=status,
            reason=failure,
            server=engine.url,
            version=engine.server,
            last_ack_ms=None if chain is None or not chain.messages else int((now - chain.state.acked_at) * 1000),
            fit_ms=0 if judge.fit_since is None else int((now - judge.fit_since) * 1000),
        ),
        log=LogRecord(
            first=tail.first,
            last=cluster.fold.applied,
            pending=tail.pending,
            lag_ms=int(tail.lag_s * 1000),
            failure=tail.failure or None,
        ),
        unreplicated=UnreplicatedRecord(
            additions=additions, events=cluster.backlog.events, bytes=size, oldest_seconds=oldest_s
        ),
        nodes=[_node(cluster, state, now) for _, state in sorted(cluster.fold.nodes.items()) if _is_shown(state)],
    )


def _is_shown(state: NodeState) -> bool:
    return not state.over or time.time_ns() // 1000 - state.ended_us < GONE_US


def _node(cluster: Cluster, state: NodeState, now: float) -> NodeRecord:
    peer = cluster.judge.peers.get(state.node)
    up, beat = state.up, state.beat
    if peer is not None:
        standing = cluster.judge.standing(state.node, now)
    else:  # of what was read before this start
        standing = Standing(state.over) if state.over else Standing.SUSPECT
    return NodeRecord(
        name=state.node,
        status=standing.value,
        life=state.life,
        slot=state.slot,
        version="" if up is None else up.version,
        url="" if up is None else up.url,
        last_seen_ms=None if peer is None else int((now - peer.heard_at) * 1000),
        connections=0 if state.over else beat.connections,
        workers=0 if state.over else beat.workers,
        room=0 if state.over else beat.room,
        config_differs=up is not None and not state.over and up.configuration != cluster.configuration,
    )


def has_diverged(cluster: Cluster) -> bool:
    """Say whether the log is not the one that this node has read, or published: it went back, or the engine's replicas differ."""
    back = cluster.chain is not None and cluster.chain.state.state is State.BACK
    return back or (bool(cluster.tail.stopped) and not cluster.tail.too_new)


def figures_of(cluster: Cluster) -> ClusterFigures:
    """Return what metrics tell."""
    record, chain = record_of(cluster), cluster.chain
    return ClusterFigures(
        nodes=dict(Counter(node.status for node in record.nodes)),
        engine_up=record.engine.status == "up",
        ack=Histogram() if chain is None else chain.ack,
        last_ack_age_s=0.0 if chain is None else now_s() - chain.state.acked_at,
        unreplicated=record.unreplicated,
        tail_lag_s=cluster.tail.lag_s,
        messages=0 if chain is None else chain.messages,
        bytes_total=0 if chain is None else chain.bytes_total,
        doubts={} if chain is None else chain.doubts,
        rebuilds=cluster.tail.rebuilds,
        strangers=cluster.fold.strangers,
        fenced=cluster.lease.fenced,
        epochs=cluster.fold.epochs,
        takeovers=dict(cluster.heirs.takeovers),
        forwards=cluster.forward.outcomes,
        forward_seconds=cluster.forward.seconds,
        diverged=has_diverged(cluster),
    )
