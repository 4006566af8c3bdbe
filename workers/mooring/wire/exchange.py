"""The bytes of a peer for one coroutine that asks for them: the transport of a handshake."""

from __future__ import annotations

import asyncio
from typing import cast


class Exchange(asyncio.Protocol):
    """A transport that is read only when it is asked to be.

    After each piece reading is paused, so that what was not asked for stays in the socket, also the end of it: whoever
    takes the transport over (a TLS layer, `set_protocol`) misses nothing. It must resume reading.

    Attributes:
        transport: Set by `connection_made`; whoever puts TLS on top replaces it.
    """

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._data = b""
        self._ended = False
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def receive(self) -> bytes:
        """Return what has come next; ``b""``: the peer has closed.

        Raises:
            OSError: If the connection was cut.
        """
        if not self._data and not self._ended:
            self.listen()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data, self._data = self._data, b""
        if not data and self._lost is not None:
            raise self._lost
        return data

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has neither said anything that nobody asked for, nor closed: another request may be sent."""
        return not self._data and not self._ended and not self.transport.is_closing()

    def listen(self) -> None:
        """Have the next piece, or the end, be noticed although nobody asks for it."""
        if not self.transport.is_reading() and not self.transport.is_closing():
            self.transport.resume_reading()

    def take_rest(self) -> bytes:
        """Return what has come and nobody asked for."""
        data, self._data = self._data, b""
        return data

    def abort(self) -> None:
        """Close at once, whatever the peer does."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        """Keep a piece, and read no further."""
        self._data += data
        self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer has closed its side: so do we."""
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._ended = True
        self._lost = exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
