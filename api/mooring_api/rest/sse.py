"""From batches to the bytes of a stream: SSE, ndjson, page. Pure.

Bodies are passed on as they are; only the id, which the worker could not know, is put in front. What is rendered for a
batch is kept with it, so that many subscribers of the same events share it.
"""

from __future__ import annotations

import msgspec

from mooring.events import Kind
from mooring_service.feed import Gap, Selection
from mooring_service.journal.batch import Batch, kinds_of

RETRY_MS = 1_000
PREAMBLE = b"retry: %d\n" % RETRY_MS
"""First on every SSE stream. No blank line: some clients would dispatch an empty event."""
KEEP_ALIVE = b": keep-alive\n"
RENDERED_KEPT = 4  # renderings kept with one batch; a fifth replaces them
MANY = 8  # events of a batch, from which it pays to put all of them together at once

_MIDDLE: list[bytes] = [b""] + [b"\nevent: %b\ndata: " % kind.name.encode() for kind in Kind]


def sse(item: Selection | Gap, epoch: bytes) -> bytes:
    """Return the SSE blocks of `item` (WHATWG HTML section 9.2): id, event, data on one line, blank line."""
    if isinstance(item, Gap):
        return b'id: %b-%d%b{"id":"%b-%d",%b\n\n' % (
            epoch, item.position, _MIDDLE[Kind.gap], epoch, item.position, item.body,
        )  # fmt: skip
    return _shared(b"sse", item, epoch)


def ndjson(item: Selection | Gap, epoch: bytes) -> bytes:
    """Return one line per event of `item`."""
    if isinstance(item, Gap):
        return b'{"id":"%b-%d",%b\n' % (epoch, item.position, item.body)
    return _shared(b"ndjson", item, epoch)


def _shared(form: bytes, item: Selection, epoch: bytes) -> bytes:
    batch = item.batch
    if batch.cold:
        return (_render_sse if form == b"sse" else _render_ndjson)(batch, item.indices, epoch)
    key = (form, None if item.indices is None else tuple(item.indices))
    found = batch.rendered.get(key)
    if found is None:
        if len(batch.rendered) >= RENDERED_KEPT:
            batch.rendered.clear()
        found = (_render_sse if form == b"sse" else _render_ndjson)(batch, item.indices, epoch)
        batch.rendered[key] = found
    return found


def _render_sse(batch: Batch, indices: list[int] | None, epoch: bytes) -> bytes:
    kinds, first, middle = batch.kinds, batch.first, _MIDDLE
    if indices is None and len(kinds) >= MANY:
        numbers = _numbers(first, len(kinds))
        # Six pieces an event, and one join: half of what formatting each event costs. Each line brings one of the two line feeds.
        pieces = [b"\nid: %b-" % epoch, b"", b"", b"", b'",', b""] * len(kinds)
        pieces[0] = pieces[0][1:]
        pieces[1::6] = pieces[3::6] = numbers
        heads = {kind: b'%b{"id":"%b-' % (middle[kind], epoch) for kind in kinds_of(kinds)}
        pieces[2::6] = [heads[kind] for kind in kinds]
        pieces[5::6] = batch.lines
        return b"".join([*pieces, b"\n\n"])
    bodies = batch.bodies
    wanted = range(len(kinds)) if indices is None else indices
    return b"".join(
        [
            b'id: %b-%d%b{"id":"%b-%d",%b\n\n' % (epoch, first + at, middle[kinds[at]], epoch, first + at, bodies[at])
            for at in wanted
        ]
    )


def _render_ndjson(batch: Batch, indices: list[int] | None, epoch: bytes) -> bytes:
    first, count = batch.first, len(batch.kinds)
    if indices is None and count >= MANY:
        pieces = [b'{"id":"%b-' % epoch, b"", b'",', b""] * count
        pieces[1::4] = _numbers(first, count)
        pieces[3::4] = batch.lines
        return b"".join([*pieces, b"\n"])
    bodies = batch.bodies
    wanted = range(count) if indices is None else indices
    return b"".join([b'{"id":"%b-%d",%b\n' % (epoch, first + at, bodies[at]) for at in wanted])


def _numbers(first: int, count: int) -> list[bytes]:
    """Return the digits of so many positions that follow each other."""
    return msgspec.json.encode(list(range(first, first + count)))[1:-1].split(b",")
