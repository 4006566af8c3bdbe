"""What a callback fetches elsewhere and puts in front of what has come (``ws.fill``). Any thread of the worker may add to it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from mooring.connection.conversion import fill_item
from mooring.errors import LimitReached


class Fill:
    """The messages of one callback, until it has returned.

    Args:
        data_type: Of the connection.
        max_bytes: One that takes it past this is refused.
    """

    __slots__ = ("_bytes", "_data_type", "_items", "_lock", "_max_bytes", "open")

    def __init__(self, data_type: str, max_bytes: int) -> None:
        self._data_type = data_type
        self._max_bytes = max_bytes
        self._items: list[tuple[Any, bytes]] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self.open = True

    def add(self, items: Iterable[Any]) -> bool:
        """Take `items`, in order, all or none; False where the callback has returned already.

        Raises:
            TypeError: If one is not of the connection's data type.
            LimitReached: If there are too many bytes, of all or of one.
        """
        found = [fill_item(self._data_type, item) for item in items]
        size = sum(len(payload) for _, payload in found)
        with self._lock:
            if not self.open:
                return False
            if self._bytes + size > self._max_bytes:
                raise LimitReached("worker.mailbox_bytes", self._max_bytes)
            self._items += found
            self._bytes += size
            return True

    def end(self) -> list[tuple[Any, bytes]]:
        """The callback has returned: return what it has filled."""
        with self._lock:
            self.open = False
            return self._items
