"""Sends whose frames were begun, and are not all in the kernel's hands yet: until then nobody can say that they were sent.

A frame that was begun is never sent again. So whoever waits for it hears that it was sent, or that nobody knows. On the I/O loop only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from mooring.connection.host import Host
from mooring.connection.sends import Ticket
from mooring.link.messages_sent import Sent
from mooring.wire.outbound import Outbound

LOOK_S = 0.005  # nobody tells when the kernel has taken all, but above the transport's limit


class _Begun(msgspec.Struct, frozen=True):
    ticket: Ticket
    answer: Sent
    deadline: float


class Begun:
    """The begun sends of one connection.

    Args:
        done: Called with the answer of each that is in the kernel's hands.
        unknown: Called with each of which nobody can say so: the socket has ended, or its time is over.
    """

    __slots__ = ("_done", "_host", "_looks", "_outbound", "_unknown", "_waiting")

    def __init__(self, host: Host, done: Callable[[Ticket, Sent], None], unknown: Callable[[Ticket], None]) -> None:
        self._host = host
        self._done = done
        self._unknown = unknown
        self._waiting: deque[_Begun] = deque()
        self._outbound: Outbound | None = None
        self._looks = False

    def add(self, ticket: Ticket, answer: Sent, outbound: Outbound, timeout_s: float) -> None:
        """Take a send that was written to the transport of `outbound`."""
        loop = self._host.loop
        self._outbound = outbound
        self._waiting.append(_Begun(ticket, answer, loop.time() + timeout_s))
        if not self._looks:
            self._looks = True
            loop.call_soon(self._look)  # the transport writes at the end of this pass of the loop

    def _look(self) -> None:
        self._looks = False
        if not self._waiting or self._outbound is None:
            return
        if not self._outbound.unflushed:
            waiting, self._waiting = self._waiting, deque()
            for one in waiting:
                self._done(one.ticket, msgspec.structs.replace(one.answer, request=one.ticket.request))
            return
        now = self._host.loop.time()
        while self._waiting and self._waiting[0].deadline <= now:
            self._unknown(self._waiting.popleft().ticket)
        if self._waiting:
            self._looks = True
            self._host.loop.call_later(LOOK_S, self._look)

    def lost(self) -> None:
        """The socket has ended. Idempotent."""
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            self._unknown(one.ticket)
