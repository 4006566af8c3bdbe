"""From batches to the JSON of single events, and to lines: what pages, streams and hooks are made of. Pure.

Bodies are passed on as they are; only the id, which the worker could not know, is put in front.
"""

from __future__ import annotations

from collections.abc import Sequence

from mooring_service.feed import Gap, Selection


def objects(item: Selection | Gap, epoch: bytes) -> list[tuple[int, bytes]]:
    """Return position and JSON of each event of `item`."""
    if isinstance(item, Gap):
        return [(item.position, b'{"id":"%b-%d",%b' % (epoch, item.position, item.body))]
    batch = item.batch
    indices: Sequence[int] = range(len(batch.kinds)) if item.indices is None else item.indices
    bodies, first = batch.bodies, batch.first
    return [(first + at, b'{"id":"%b-%d",%b' % (epoch, first + at, bodies[at])) for at in indices]
