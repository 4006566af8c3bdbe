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
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, transport: asyncio.Transport | None) -> Writing:
        """Return what to write under: ``with writing: await response.write(…)``."""
        return Writing(self, transport)

    def begin(self, writing: Writing) -> None:
        """A write has begun."""
        loop = asyncio.get_running_loop()
        self._writing[writing] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s / 4, self._sweep)

    def end(self, writing: Writing) -> None:
        """The write has ended."""
        self._writing.pop(writing, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        overdue = loop.time() - self._timeout_s
        for writing in [writing for writing, begun_at in self._writing.items() if begun_at <= overdue]:
            del self._writing[writing]
            writing.abort()
        self._timer = loop.call_later(self._timeout_s / 4, self._sweep) if self._writing else None


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
