"""Connection ids for what code in the worker opens: blocks that the service has granted, and whoever waits for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

LOW = 32  # with fewer ids than this a further block is asked for


class ConnectionIds:
    """The ids that this worker may give out. On the I/O loop only; the futures are those of other threads.

    Args:
        ask: Asks the service for a further block.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._blocks: deque[tuple[int, int]] = deque()  # (next, end)
        self._left = 0
        self._wanted: deque[Future[int]] = deque()

    def grant(self, first: int, count: int) -> None:
        """Take a block of ids, and give them to whoever waits."""
        if count:
            self._blocks.append((first, first + count))
            self._left += count
        while self._wanted and self._left:
            self._give(self._wanted.popleft())

    def want(self, future: Future[int]) -> None:
        """Have `future` end with an id, at once if there is one."""
        if self._left:
            self._give(future)
        else:
            self._wanted.append(future)
        if self._left < LOW:
            self._ask()

    def _give(self, future: Future[int]) -> None:
        if future.cancelled():
            return
        first, end = self._blocks[0]
        if first + 1 == end:
            self._blocks.popleft()
        else:
            self._blocks[0] = (first + 1, end)
        self._left -= 1
        future.set_result(first)
