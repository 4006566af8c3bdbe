"""The gate in front of aiohttp's HTTP protocol: how many connections there are, and how long a first request may take.

aiohttp bounds the size of a request's head, but not its time (a half-sent one would be held for ever), nor how many
there are at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

HEAD_END = b"\r\n\r\n"


class Gate:
    """Makes the protocols of one listening socket.

    Args:
        make: aiohttp's factory.
        max_connections: One more is closed at once.
        head_timeout_s: The first request's head must have come by then.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], *, max_connections: int, head_timeout_s: float) -> None:
        self.make = make
        self.max_connections = max_connections
        self.head_timeout_s = head_timeout_s
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection."""
        return _Guarded(self)


class _Guarded(asyncio.Protocol):
    """Passes everything on; counts, and watches the first head."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inner: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tail = b""
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        gate = self._gate
        if gate.open >= gate.max_connections:
            transport.abort()
            return
        gate.open += 1
        self._counted = True
        self._timer = asyncio.get_running_loop().call_later(gate.head_timeout_s, transport.abort)
        self._inner = gate.make()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            seen = self._tail + data
            if HEAD_END in seen:
                self._timer.cancel()
                self._timer = None
                self._tail = b""
            else:
                self._tail = seen[-3:]
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counted:
            self._counted = False
            self._gate.open -= 1
        if self._inner is not None:
            inner, self._inner = self._inner, None
            inner.connection_lost(exc)
