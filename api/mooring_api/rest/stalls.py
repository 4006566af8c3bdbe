"""Subscribers that do not read are cut off: the deadline of each write to a stream. It knows no event and no resource."""

from __future__ import annotations

import asyncio


class StallWatch:
    """Cuts off subscribers that do not read: a write that takes longer than `timeout_s` has its transport aborted.

    One timer serves all streams, and a write costs two assignments.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._writing: dict[Writing, float] = {}
        self._timer: asyncio.Handle | None = None
        self._due_at = 0.0

    def watch(self, transport: asyncio.Transport | None) -> Writing:
        """Return what to write under: ``with writing: await response.write(…)``."""
        return Writing(self, transport)

    @property
    def pending(self) -> bool:
        """Whether its timer runs."""
        return self._timer is not None

    def begin(self, writing: Writing) -> None:
        """A write has begun."""
        self._writing[writing] = now = asyncio.get_running_loop().time()
        if self._timer is None:
            self._look_later(now)

    def end(self, writing: Writing) -> None:
        """The write has ended."""
        self._writing.pop(writing, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._due_at > self._timeout_s / 4:
            # We were away ourselves: what they have read meanwhile was not seen yet, so each clock begins anew.
            self._writing = dict.fromkeys(self._writing, now)
        overdue = now - self._timeout_s
        for writing in [writing for writing, begun_at in self._writing.items() if begun_at <= overdue]:
            del self._writing[writing]
            writing.abort()
        self._timer = None
        if self._writing:
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        self._due_at = now + self._timeout_s / 4
        self._timer = asyncio.get_running_loop().call_at(self._due_at, self._sweep)


class Writing:
    """The writes of one stream."""

    def __init__(self, stalls: StallWatch, transport: asyncio.Transport | None) -> None:
        self._stalls = stalls
        self._transport = transport

    def __enter__(self) -> None:
        self._stalls.begin(self)

    def __exit__(self, *exc: object) -> None:
        self._stalls.end(self)

    def abort(self) -> None:
        """Cut the subscriber off: its write raises."""
        if self._transport is not None:
            self._transport.abort()
