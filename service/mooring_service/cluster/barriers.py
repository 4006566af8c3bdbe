"""Waiting until what is known somewhere is known here."""

from __future__ import annotations

import asyncio

from mooring_service.cluster import objects
from mooring_service.cluster.engine import EngineError
from mooring_service.cluster.node import Cluster
from mooring_service.cluster.position import position_of
from mooring_service.cluster_errors import EngineDown

LOOK_S = 0.1
SETTLE_S = 10.0


async def barrier(cluster: Cluster, timeout_s: float) -> None:
    """Wait until all that the log holds now is shown here.

    Raises:
        EngineDown: If that cannot be said, or not in time.
    """
    try:
        _, last = await objects.bounds(cluster.engine, cluster.name)
    except EngineError as exc:
        raise EngineDown(str(exc)) from None
    if not await cluster.tail.reach(last, timeout_s):
        raise EngineDown(cluster.tail.failure or "the log is not read up to its end")


async def end_of_log(cluster: Cluster, *, else_: int) -> int:
    """Return the last position that the log can have given out; `else_` if it cannot be asked."""
    try:
        _, last = await objects.bounds(cluster.engine, cluster.name)
    except EngineError:
        return else_
    return position_of(last + 1) - 1


async def settled(cluster: Cluster, wanted: int) -> None:
    """Wait until all up to addition `wanted` is shown here as part of the log, however long that takes."""
    while not cluster.ready or cluster.chain is None:
        await asyncio.sleep(LOOK_S)  # there is no event of all of it
    while (seq := await cluster.chain.reach(wanted, SETTLE_S)) is None or not await cluster.tail.reach(seq, SETTLE_S):
        pass
