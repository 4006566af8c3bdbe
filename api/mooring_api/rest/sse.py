"""From batches to the bytes of a stream: SSE, ndjson, page. Pure.

Bodies are passed on as they are; only the id, which the worker could not know, is put in front. What is rendered for a
batch is kept with it, so that many subscribers of the same events share it.
"""

from __future__ import annotations

from mooring.events import Kind
from mooring_service.feed import Gap, Selection
from mooring_service.journal.batch import Batch

RETRY_MS = 1_000
PREAMBLE = b"retry: %d\n" % RETRY_MS
"""First on every SSE stream. No blank line: some clients would dispatch an empty event."""
KEEP_ALIVE = b": keep-alive\n"
RENDERED_KEPT = 4  # renderings kept with one batch; a fifth replaces them

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
    bodies, kinds, first, middle = batch.bodies, batch.kinds, batch.first, _MIDDLE
    if indices is None:
        if kinds.count(kinds[:1]) == len(kinds):
            # One kind throughout: the common case is a burst of messages.
            head = b'id: %b-%%d%b{"id":"%b-%%d",%%b\n\n' % (epoch, middle[kinds[0]], epoch)
            return b"".join([head % (at, at, body) for at, body in enumerate(bodies, first)])
        indices = list(range(len(kinds)))
    return b"".join(
        [
            b'id: %b-%d%b{"id":"%b-%d",%b\n\n' % (epoch, first + at, middle[kinds[at]], epoch, first + at, bodies[at])
            for at in indices
        ]
    )


def _render_ndjson(batch: Batch, indices: list[int] | None, epoch: bytes) -> bytes:
    bodies, first = batch.bodies, batch.first
    if indices is None:
        return b"".join([b'{"id":"%b-%d",%b\n' % (epoch, at, body) for at, body in enumerate(bodies, first)])
    return b"".join([b'{"id":"%b-%d",%b\n' % (epoch, first + at, bodies[at]) for at in indices])
