"""Waiting until what is known somewhere is known here."""

from __future__ import annotations

import asyncio

from mooring_service.cluster import objects
from mooring_service.cluster.engine import EngineError
from mooring_service.cluster.node import Cluster
from mooring_service.cluster.position import position_of
from mooring_service.cluster_errors import EngineDown
from mooring_service.journal.cursor import ahead_of

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


async def reach_of(cluster: Cluster, cursor: str, known: int) -> int:
    """Return up to which position the log is known to go, once it is `known` up to one: further, if `cursor` is one of it.

    Raises:
        EngineDown: If nothing of the log was read here yet.
    """
    if not cluster.fold.epoch:
        raise EngineDown("nothing of the log was read here yet")
    ahead = ahead_of(cursor, epoch=cluster.fold.epoch, last=known)
    if ahead is None:
        return known
    try:
        _, last = await objects.bounds(cluster.engine, cluster.name)
    except EngineError:  # nobody says that it is none: a gap would tell of a loss that there is not
        return ahead
    return position_of(last + 1) - 1


async def settled(cluster: Cluster, wanted: int) -> None:
    """Wait until all up to addition `wanted` is shown here as part of the log, however long that takes."""
    while not cluster.ready or cluster.chain is None:
        await asyncio.sleep(LOOK_S)  # there is no event of all of it
    while (seq := await cluster.chain.reach(wanted, SETTLE_S)) is None or not await cluster.tail.reach(seq, SETTLE_S):
        pass
