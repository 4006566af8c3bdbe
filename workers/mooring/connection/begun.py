"""Sends whose frames were begun, and are not all in the kernel's hands yet: until then nobody can say that they were sent.

A frame that was begun is never sent again. So whoever waits for it hears that it was sent, or that nobody knows; of several,
how many of the first were sent. On the I/O loop only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import msgspec

from mooring.connection.host import Host
from mooring.connection.sends import Ticket
from mooring.deadline import PASS_S
from mooring.link.messages_sent import Sent
from mooring.wire.outbound import Outbound

LOOK_S = 0.005  # nobody tells when the kernel has taken all, but above the transport's limit


class _Begun(msgspec.Struct, frozen=True):
    """A send; `ends`: where each of its frames ends, in bytes of what its socket has written, where it is several."""

    ticket: Ticket
    answer: Sent
    deadline: float
    ends: Sequence[int] = ()


class BegunOwner(Protocol):
    """Who waits for begun sends."""

    def was_sent(self, ticket: Ticket, answer: Sent) -> None:
        """It is in the kernel's hands."""

    def is_unknown(self, ticket: Ticket, sent: int) -> None:
        """Nobody can say so, but of the first `sent`: the socket has ended, or its time is over."""


class Begun:
    """The begun sends of one connection.

    Args:
        owner: Who is told of each.
    """

    __slots__ = ("_flushed_bytes", "_host", "_looks", "_outbound", "_owner", "_waiting")

    def __init__(self, host: Host, owner: BegunOwner) -> None:
        self._host = host
        self._owner = owner
        self._waiting: deque[_Begun] | None = None  # an empty one is most of what a connection costs
        self._outbound: Outbound | None = None
        self._looks = False
        self._flushed_bytes = 0  # so much of what its socket has written was in the kernel's hands when we looked last

    def add(self, ticket: Ticket, answer: Sent, outbound: Outbound, timeout_s: float) -> None:
        """Take a send that was written to the transport of `outbound`."""
        loop = self._host.loop
        if outbound is not self._outbound:
            self._outbound, self._flushed_bytes = outbound, 0
        ends: Sequence[int] = ()
        if answer.sent > 1:
            begin = outbound.written_bytes - sum(outbound.frame_sizes)
            ends = list(accumulate(outbound.frame_sizes, initial=begin))[1:]
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(_Begun(ticket, answer, loop.time() + timeout_s, ends))
        if not self._looks:
            self._looks = True
            loop.call_soon(self._look, math.inf)  # the transport writes at the end of this pass of the loop

    def _look(self, due: float) -> None:
        self._looks = False
        if not self._waiting or self._outbound is None:
            return
        if not self._outbound.unflushed:
            waiting, self._waiting = self._waiting, None
            for one in waiting:
                self._owner.was_sent(one.ticket, msgspec.structs.replace(one.answer, request=one.ticket.request))
            return
        self._flushed_bytes = self._outbound.written_bytes - self._outbound.unflushed
        loop = self._host.loop
        now = loop.time()
        self._looks = True
        if now > due + PASS_S and self._waiting[0].deadline <= now:
            # We were the ones who were away: what the peer has taken meanwhile is written before anybody is judged.
            loop.call_later(PASS_S, self._look, math.inf)
            return
        while self._waiting and self._waiting[0].deadline <= now:
            self._unknown(self._waiting.popleft())
        self._looks = bool(self._waiting)
        if self._looks:
            loop.call_later(LOOK_S, self._look, now + LOOK_S)

    def lost(self) -> None:
        """The socket has ended. Idempotent."""
        waiting, self._waiting = self._waiting, None
        for one in waiting or ():
            self._unknown(one)

    def _unknown(self, one: _Begun) -> None:
        self._owner.is_unknown(one.ticket, sum(end <= self._flushed_bytes for end in one.ends))
