"""The gate in front of aiohttp's HTTP protocol: how many connections there are, how long a first request may take, and clients
that close their sending side.

aiohttp bounds the size of a request's head, but not its time (a half-sent one would be held for ever), nor how many
there are at once. It has no word on half-closed connections, and asyncio closes those: see `_Guarded.eof_received`. asyncio
tells nobody of a connection before its TLS handshake is over, so that is done here: whoever only begins one is counted too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from mooring.background import Background
from mooring.deadline import Deadline

HALF_CLOSED_S = 15.0  # to answer whoever has said all that he will: a create may take that long
HALF_CLOSED_LOOK_S = 0.02
HEAD_END = b"\r\n\r\n"

log = logging.getLogger("mooring.api")


class Gate:
    """Makes the protocols of one listening socket.

    Args:
        make: aiohttp's factory.
        max_connections: One more is closed at once.
        head_timeout_s: The first request's head must have come by then, and before it a TLS handshake.
        tls: With which certificate; None: without TLS.
        lasts: Whether the answer that is under way on a transport may go on for ever.
    """

    def __init__(
        self,
        make: Callable[[], RequestHandler],
        *,
        max_connections: int,
        head_timeout_s: float,
        tls: ssl.SSLContext | None = None,
        lasts: Callable[[asyncio.BaseTransport], bool] = lambda _: False,
    ) -> None:
        self.make = make
        self.max_connections = max_connections
        self.head_timeout_s = head_timeout_s
        self.tls = tls
        self.lasts = lasts
        self.handshakes = Background(log)
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection that was just accepted."""
        return _Guarded(self) if self.tls is None else _Accepted(self, self.tls)

    async def close(self) -> None:
        """End the handshakes that are under way."""
        await self.handshakes.close()


class _Accepted(asyncio.Protocol):
    """What is there before the TLS handshake: it takes a place, and hands the socket over to who secures it.

    The event loop would secure it by itself, and tell us when that is done; `start_tls` cannot be used either: uvloop reads
    on while it is being called.
    """

    def __init__(self, gate: Gate, tls: ssl.SSLContext) -> None:
        self._gate = gate
        self._tls = tls

    def connection_made(self, transport: Any) -> None:
        guarded = _Guarded(self._gate)
        if guarded.enter():
            sock = transport.get_extra_info("socket")
            copy = socket.fromfd(sock.fileno(), sock.family, sock.type)
            copy.setblocking(False)
            self._gate.handshakes.spawn(self._secure(copy, guarded))
        transport.abort()

    async def _secure(self, sock: socket.socket, guarded: _Guarded) -> None:
        timeout_s = self._gate.head_timeout_s
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guarded, sock, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )
            if not guarded.made:
                transport.abort()  # its client went away in the middle of it
        except OSError:
            pass  # it speaks no TLS, or not in time, or has gone away
        finally:
            if not guarded.made:
                guarded.leave()


class _Guarded(asyncio.Protocol):
    """Passes everything on; counts, and watches the first head."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inner: RequestHandler | None = None
        self._transport: Any = None
        self._timer: asyncio.Handle | Deadline | None = None
        self._tail = b""
        self._counted = False
        self._body: StreamReader | None = None  # of the last request that has come

    @property
    def made(self) -> bool:
        """Whether there is, or was, a connection."""
        return self._transport is not None

    def enter(self) -> bool:
        """Take a place; False: there is none."""
        gate = self._gate
        if not self._counted and gate.open < gate.max_connections:
            gate.open += 1
            self._counted = True
        return self._counted

    def leave(self) -> None:
        """Give the place back."""
        if self._counted:
            self._counted = False
            self._gate.open -= 1

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if not self.enter():
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._timer = Deadline(loop, loop.time() + self._gate.head_timeout_s, transport.abort)
        self._inner = self._gate.make()
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
            if self._inner._messages:
                self._see_what_came(*self._inner._messages[-1])

    def _see_what_came(self, message: object, body: StreamReader) -> None:
        # aiohttp queues the parser's refusal behind the request whose body is refused, and leaves that to wait for the rest.
        if not isinstance(message, _ErrInfo):
            self._body = body
        elif self._body is not None and not self._body.is_eof():
            self._body.set_exception(HttpProcessingError(message="the body's chunks cannot be parsed"))

    def eof_received(self) -> bool:
        """Answer what has come whole from a client that closes its sending side (``nc -N``), and close then.

        One that has gone away altogether looks the same, until it is written to: so there is a deadline, and what lasts (streams,
        pages that wait) ends at once. Over TLS asyncio closes whatever is said here.
        """
        if self._is_idle() or self._breaks_off():
            return False
        self._close_when_answered(asyncio.get_running_loop().time() + HALF_CLOSED_S)
        return True

    def _is_idle(self) -> bool:
        inner = self._inner
        return inner is None or (inner._waiter is not None and not inner._waiter.done() and not inner._messages)

    def _breaks_off(self) -> bool:
        """Say whether the rest of a body will never come."""
        inner = self._inner
        if inner is None:
            return True
        if inner._messages:
            return not inner._messages[-1][1].is_eof()
        return inner._current_request is not None and not inner._current_request.content.is_eof()

    def _close_when_answered(self, deadline: float) -> None:
        # aiohttp's own `close` would forget the requests that are queued behind the one that is being answered.
        loop = asyncio.get_running_loop()
        # What breaks off is seen here, too: for one pass a request is neither among the messages any more nor the current one.
        ends = self._is_idle() or self._breaks_off() or self._gate.lasts(self._transport)
        if ends or loop.time() >= deadline:
            self._transport.close()
        else:
            self._timer = loop.call_later(HALF_CLOSED_LOOK_S, self._close_when_answered, deadline)

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
        self.leave()
        self._body = None
        if self._inner is not None:
            inner, self._inner = self._inner, None
            inner.connection_lost(exc)
