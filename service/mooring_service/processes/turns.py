"""Turns: so many at a time, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """One turn: `come` ends when it is there. Whoever took it gives it back, also when it never came; twice does nothing."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._over = False
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def give_back(self) -> None:
        """Let the next one go on."""
        if not self._over:
            self._over = True
            self._turns.over(self)


class Turns:
    """So many at a time.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Turn] = deque()

    def take(self) -> Turn:
        """Ask for a turn."""
        turn = Turn(self)
        self._waiting.append(turn)
        self._go_on()
        return turn

    def over(self, turn: Turn) -> None:
        """`turn` was given back."""
        if turn.come.done():
            self._free += 1
        else:
            self._waiting.remove(turn)
        self._go_on()

    def _go_on(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().come.set_result(None)
