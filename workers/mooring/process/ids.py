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
        """Take a block of ids, and give them to whoever still waits; ask for more if it does not reach."""
        if count:
            self._blocks.append((first, first + count))
            self._left += count
        while self._wanted and self._left:
            self._give(self._wanted.popleft())
        self._ask_if_low()

    def want(self, future: Future[int]) -> None:
        """Have `future` end with an id, at once if there is one. Who does not want to wait any longer cancels it."""
        while self._wanted and self._wanted[0].cancelled():
            self._wanted.popleft()
        if self._left:
            self._give(future)
        else:
            self._wanted.append(future)
        self._ask_if_low()

    def _ask_if_low(self) -> None:
        if self._left < LOW:
            self._ask()

    def _give(self, future: Future[int]) -> None:
        # From here on it cannot be cancelled: an id is neither lost with one that gave up, nor given to it.
        if not future.set_running_or_notify_cancel():
            return
        first, end = self._blocks[0]
        if first + 1 == end:
            self._blocks.popleft()
        else:
            self._blocks[0] = (first + 1, end)
        self._left -= 1
        future.set_result(first)
