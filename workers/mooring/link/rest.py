"""The rest of the I/O loop between two `Stored` under load: what comes meanwhile is read at one time, by one wake-up.

Then the service tells in a rhythm what is stored, and what is recorded before it does so waits in the outbox anyway. So the loop need not be
woken for each message: it waits for the link alone, and what has come to all sockets until then leaves as one frame, no later than it would
have. Only for a worker that receives and does nothing else: everything but the link waits for the end of a rest.
"""

from __future__ import annotations

import asyncio
import math
import select
from typing import Any, Protocol

from mooring.link.channel import Channel
from mooring.link.messages import Stored
from mooring.link.outbox import Outbox

SLACK_MS = 2  # beyond the rhythm: the timer of a busy service is late
ASKED_S = 1.0  # who was asked for something within this does not rest


class Receiver(Protocol):
    """Who rests."""

    outbox: Outbox

    @property
    def only_receives(self) -> bool:
        """True while messages are received and recorded, and nothing else waits for the I/O loop."""


class Rest:
    """Made on the I/O loop, and used on it only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked_at = -math.inf
        self._begins = False

    def asked(self) -> None:
        """Take that something was asked for: whoever waits for its answer must not wait for a rest, too."""
        self._asked_at = self._loop.time()

    def after(self, stored: Stored, link: Channel[Any], receiver: Receiver) -> None:
        """Forget what is stored, send what was recorded, and rest if the service keeps to a rhythm.

        First this pass of the loop reads all that has come. The rest ends when something comes on the `link`, or `stored.next_us` are over;
        there is none when nothing was sent: what comes first then must not wait.
        """
        receiver.outbox.stored(stored.number)
        asked = self._loop.time() < self._asked_at + ASKED_S
        if not stored.next_us or asked or not receiver.only_receives:
            receiver.outbox.flush_behind()
        elif not self._begins:
            self._begins = True
            self._loop.call_soon(self._send, stored.next_us, link, receiver.outbox)

    def _send(self, next_us: int, link: Channel[Any], outbox: Outbox) -> None:
        self._begins = False
        outbox.flush_behind()
        sock = link.peer_socket()
        if outbox.holds and sock is not None:
            link.flush()
            self._loop.call_soon(self._rest, next_us, sock.fileno())  # the loop writes at the end of this pass

    def _rest(self, next_us: int, link: int) -> None:
        poll = select.poll()
        poll.register(link, select.POLLIN)
        poll.poll(math.ceil(next_us / 1000) + SLACK_MS)
