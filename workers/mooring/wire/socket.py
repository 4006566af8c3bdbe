"""One socket, from the 101 to its last byte: its transport, parser, pulse and outbound, and the close handshake.

Whoever made it (`SocketOwner`) is told what comes and how it ends, and throws it away then: a further socket is a further
`Socket`. What its owner is, whom it serves and what is made of a message are unknown here. On the I/O loop only.

No task lives as long as a socket: the transport calls us when bytes come, timers when a deadline passes, and what we write
goes out whole, frame by frame. So an idle socket costs one timer, and nothing can be cancelled in the middle of a frame.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from mooring.deadline import Deadline
from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.state_table import next_state
from mooring.wire.dial import Dialled
from mooring.wire.frames import (
    ABNORMAL,
    BINARY,
    INVALID_DATA,
    PING,
    TOO_BIG,
    Deflater,
    FrameError,
    FrameParser,
    close_payload,
)
from mooring.wire.outbound import Outbound, Sender
from mooring.wire.pulse import Pulse
from mooring.wire.ticks import Clock

LINGER_S = 1.0  # how long the server may take to close TCP first (RFC 6455 section 7.1.1) before we do

_ERR_BY_CLOSE_CODE = {INVALID_DATA: ErrCode.INVALID_DATA, TOO_BIG: ErrCode.MESSAGE_TOO_BIG}


class SocketState(Enum):
    """OPEN ──CLOSE_BEGUN──▶ CLOSING ──ENDED──▶ CLOSED, or from OPEN at once; CLOSED accepts nothing."""

    OPEN = "messages go both ways"
    CLOSING = "our close frame is on its way, and the server has closeTimeout to answer it"
    CLOSED = "the end is decided; TCP may linger"


class SocketEvent(Enum):
    """What moves a socket."""

    CLOSE_BEGUN = "its owner closes it"
    ENDED = "nothing that comes from now on counts"


TRANSITIONS: dict[SocketState, dict[SocketEvent, SocketState]] = {
    SocketState.OPEN: {SocketEvent.CLOSE_BEGUN: SocketState.CLOSING, SocketEvent.ENDED: SocketState.CLOSED},
    SocketState.CLOSING: {SocketEvent.ENDED: SocketState.CLOSED},
    SocketState.CLOSED: {},
}


class SocketOwner(Protocol):
    """Who made a socket. After `closed` it hears nothing more of it but what was `unwritten`, and `gone`."""

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        """The messages of one read, as ``(opcode, payload)``; none comes once a close has begun."""

    def may_read(self) -> bool:
        """Say whether there is room for what a further read would bring; asked after each one."""

    def reading_paused(self) -> None:
        """Nothing is read any more, since `may_read` said no; `Socket.resume_reading` ends it."""

    def round_trip(self, round_trip_us: int) -> None:
        """The server has answered our ping."""

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Something is wrong: with a `close_code` the owner is to close with it; without, `closed` follows at once."""

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        """The end, exactly once: `code` is the peer's; 1005 if its close frame had none, 1006 if there was none."""

    def gone(self, socket: Socket) -> None:
        """The TCP connection of `socket` is released."""


class Socket(asyncio.Protocol):
    """One upgraded connection to a server. `start` it once its owner is ready for what comes.

    Args:
        options: What was asked for; the dial has been made with it.
        max_outbound_bytes: What may wait for a peer that does not read.
        clock: Of the pings; None: the loop.

    Attributes:
        outbound: What is sent goes there.
        is_reading: False while we have paused reading.
    """

    __slots__ = (
        "_close_timeout_s", "_close_timer", "_failure", "_is_gone", "_loop", "_owner", "_parser", "_pulse", "_transport",
        "is_reading", "outbound", "state",
    )  # fmt: skip

    def __init__(
        self,
        owner: SocketOwner,
        sender: Sender,
        loop: asyncio.AbstractEventLoop,
        dialled: Dialled,
        options: ConnectionOptions,
        max_outbound_bytes: int,
        clock: Clock | None = None,
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._transport = dialled.transport
        self._is_gone = False
        self._parser = FrameParser(options.max_message_bytes, dialled.deflate)
        deflater = None if dialled.deflate is None else Deflater(dialled.deflate)
        self.outbound = Outbound(sender, loop, dialled.transport, deflater, max_outbound_bytes)
        self._pulse = Pulse(
            clock or loop, options.ping_interval_s, options.ping_timeout_s, self.outbound.write, self._on_dead
        )
        self._close_timeout_s = options.close_timeout_s
        self._close_timer: Deadline | None = None
        self._failure: FrameError | None = None  # as far as the owner has been told
        self.is_reading = True
        self.state = SocketState.OPEN

    @property
    def last_byte_at(self) -> float:
        """When the server was heard last; the loop's time."""
        return self._pulse.live.last_byte_at

    def start(self, tail: bytes) -> None:
        """Take over the transport from the dial; `tail` is what came in the packet of the 101."""
        transport = self._transport
        transport.set_protocol(self)
        lost = transport.is_closing()
        if tail:
            self.data_received(tail)
        if lost:
            # Between the 101 and here: perhaps nobody calls connection_lost of ours any more.
            self.connection_lost(None)
            return
        if not transport.is_reading() and self.is_reading and not transport.is_closing():
            transport.resume_reading()

    def fileno(self) -> int:
        """Return the descriptor; -1: it is released."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def data_received(self, data: bytes) -> None:
        """Take bytes of the server: any of them is life."""
        self._pulse.live.last_byte_at = self._loop.time()
        if self.state is SocketState.CLOSED:
            return  # lingering: what a server says after its close frame is nothing
        self._take(data)
        if self._parser.more:
            self._take_more()

    def _take_more(self) -> None:
        """Take what has been read and is not parsed yet, as long as there is room for it."""
        while self._parser.more and self.is_reading and self.state is not SocketState.CLOSED:
            self._take(b"")

    def _take(self, data: bytes) -> None:
        parser = self._parser
        items = parser.feed(data)
        if items and self.state is SocketState.OPEN:
            if parser.controls:
                items = self._take_controls(items)
            if items:
                self._owner.messages(items)
        if parser.failure is not self._failure:
            self._failure = failure = parser.failure
            assert failure is not None, "a parser never forgets its failure"
            err_code = _ERR_BY_CLOSE_CODE.get(failure.code, ErrCode.PROTOCOL_ERROR)
            self._owner.failed(err_code, f"the server sent {failure.detail}", failure.code)
        if parser.peer_close is not None:
            self._peer_closed(*parser.peer_close)
        elif self.state is SocketState.OPEN and self.is_reading and not self._owner.may_read():
            self._pause_reading()

    def _take_controls(self, items: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Answer the pings and take the pongs of one read; return its messages."""
        self._parser.controls = 0
        for opcode, payload in items:
            if opcode == PING:
                self.outbound.pong(payload)
            elif opcode > BINARY:
                round_trip_us = self._pulse.pong(payload)
                if round_trip_us is not None:
                    self._owner.round_trip(round_trip_us)
        return [item for item in items if item[0] <= BINARY]

    def _pause_reading(self) -> None:
        if self._transport.is_closing():
            return
        self.is_reading = False
        self._transport.pause_reading()
        self._pulse.live.paused(self._loop.time())
        self._owner.reading_paused()

    def resume_reading(self) -> None:
        """Read again; the peer's deadline has stood still meanwhile."""
        if not self.is_reading:
            self.is_reading = True
            self._pulse.live.resumed(self._loop.time())
            self._take_more()
            if self.is_reading and not self._transport.is_closing():
                self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The peer reads too slowly: from here on messages queue, within bounds and deadlines."""
        self.outbound.paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.outbound.resume()

    def close(self, code: int, reason: str) -> None:
        """Begin the close: our close frame goes out behind what is queued, and the peer has ``closeTimeout`` to answer it."""
        self.state = next_state(TRANSITIONS, self.state, SocketEvent.CLOSE_BEGUN)
        self._pulse.stop()
        self._close_timer = Deadline(self._loop, self._loop.time() + self._close_timeout_s, self._close_overdue)
        self.outbound.close(close_payload(code, reason))
        # Nothing is handed over any more, and the peer's close frame is behind what it has sent.
        self.resume_reading()

    def _close_overdue(self) -> None:
        message = f"the server did not answer the close frame within {self._close_timeout_s:g} s"
        self._end(ABNORMAL, message, was_clean=False)

    def drop(self, code: int, reason: str) -> None:
        """Decide the end now, say so in a close frame, and wait for no answer: a peer that is dead gives none."""
        if self.state is SocketState.CLOSED:
            return
        self.outbound.drop()
        if not self.outbound.close_sent:
            self.outbound.close(close_payload(code, reason))
        self._end(ABNORMAL, reason, was_clean=False, flushes=True)

    def probe(self, deadline_s: float) -> None:
        """Ask at once whether the server is there: it has so long, or its ``pingTimeout``."""
        if self.state is SocketState.OPEN:
            self._pulse.probe(deadline_s)

    def abort(self, reason: str) -> None:
        """Decide the end now, if it is not decided, and wait for nobody."""
        self._end(ABNORMAL, reason, was_clean=False)
        self._transport.abort()

    def _peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame: answer it if it came first (RFC 6455 section 5.5.1)."""
        if not self.outbound.close_sent:
            self.outbound.drop()  # our own close frame may be waiting there, behind what the peer did not read
            self.outbound.close(close_payload(code))
        # The answer may still be in the transport's buffer: `_end` gives it, and TCP, a second.
        self._end(code, reason, was_clean=True)

    def _on_dead(self, silent_s: float) -> None:
        message = f"the server sent nothing for {silent_s:.1f} s after a ping"
        self._owner.failed(ErrCode.PING_TIMEOUT, message, None)
        self._end(ABNORMAL, message, was_clean=False)

    def eof_received(self) -> bool:
        """The server has closed its side: nothing more can come, whether it still reads or not."""
        self._cut("was closed")
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        self._cut("was reset" if isinstance(exc, ConnectionError) else "was closed")
        self._stop_timer()
        if not self._is_gone:
            self._is_gone = True
            self._owner.gone(self)

    def _cut(self, how: str) -> None:
        """No close frame of the peer can come any more; where it has come, this is how TCP ends."""
        match self.state:
            case SocketState.OPEN:
                message = f"the connection {how} without a close frame"
                self._owner.failed(ErrCode.CONNECTION_LOST, message, None)
                self._end(ABNORMAL, message, was_clean=False)
            case SocketState.CLOSING:
                message = "the connection was closed before the server had answered the close frame"
                self._end(ABNORMAL, message, was_clean=False)

    def _end(self, code: int, reason: str, *, was_clean: bool, flushes: bool = False) -> None:
        """Decide the end, once: the owner hears of it, and the transport is released within `LINGER_S`.

        `flushes`: what was written leaves first, the close frame above all.
        """
        if self.state is SocketState.CLOSED:
            return
        self.state = next_state(TRANSITIONS, self.state, SocketEvent.ENDED)
        self._pulse.stop()
        self._stop_timer()
        self._owner.closed(code, reason, was_clean=was_clean)
        self.outbound.drop()
        if was_clean:
            # The server closes TCP first (RFC 6455 section 7.1.1); we only wait so long for it, or for our answer to leave.
            self.resume_reading()
            self._close_timer = Deadline(self._loop, self._loop.time() + LINGER_S, self._transport.abort)
        elif flushes:
            self._transport.close()
            self._close_timer = Deadline(self._loop, self._loop.time() + LINGER_S, self._transport.abort)
        else:
            # Closing already or not: nobody waits for a peer that does not read.
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
