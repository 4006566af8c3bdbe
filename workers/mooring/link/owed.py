"""Answers that found no link: they go over the next one. A service that was not the one that asked skips them."""

from __future__ import annotations

from collections import deque

from mooring.link.messages import (
    Called,
    CallFailed,
    Opened,
    OpenFailed,
    OpenInvalid,
    ReconnectDone,
    TerminateDone,
)
from mooring.link.messages_changed import Changed
from mooring.link.messages_sent import QueueDropped, Replied, RequestFailed, RequestTaken, SendFailed, SendQueued, Sent

ANSWERS = (
    Called, CallFailed, Changed, Opened, OpenFailed, OpenInvalid, QueueDropped, ReconnectDone, Replied, RequestFailed, RequestTaken,
    SendFailed, SendQueued, Sent,
    TerminateDone,
)  # fmt: skip
OWED_BYTES = 16 * 1024 * 1024
OWED_ITEMS = 1_000


class Owed:
    """Answers of the time without a link, as frames; beyond the bounds the oldest are lost, and told by their deadlines."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Keep one."""
        self._frames.append(data)
        self._size += len(data)
        while self._size > OWED_BYTES or len(self._frames) > OWED_ITEMS:
            self._size -= len(self._frames.popleft())

    def take(self) -> list[bytes]:
        """Return all of them, oldest first, and keep none."""
        frames = list(self._frames)
        self._frames.clear()
        self._size = 0
        return frames
