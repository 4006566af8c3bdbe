"""A stream that keeps up is written to at once when something is committed: its task sleeps on, and all streams are served in one pass.

It knows no event: what there is to be written, and how it reads, is told by whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from mooring_service.feed import Gap, Selection


class LiveSink:
    """The body of one response (`feed.Sink`). Past its peer's pace it is not ready, and its task writes, with a deadline.

    Args:
        response: Prepared; its first bytes are its task's affair.
        render: Returns the bytes of one item.
    """

    def __init__(
        self, request: web.Request, response: web.StreamResponse, render: Callable[[Selection | Gap], bytes]
    ) -> None:
        self._transport = request.transport  # None: the peer is gone already
        self._writer = request.writer
        self._chunked = response.chunked
        self._render = render

    @property
    def ready(self) -> bool:
        """Whether the head is sent, and the peer has taken all that was written so far."""
        transport = self._transport
        return (
            transport is not None
            and self._writer.output_size > 0
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def take(self, items: list[Selection | Gap]) -> None:
        """Write these, as a chunk of the body."""
        assert self._transport is not None, "it is ready"
        render = self._render
        data = render(items[0]) if len(items) == 1 else b"".join([render(item) for item in items])
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(data)
        writer = self._writer
        writer.output_size += len(data)
        writer.buffer_size += len(data)  # so that the next write of its task waits for the peer
