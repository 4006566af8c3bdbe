"""Answers that speak of what was recorded: those of one pass of the loop share a frame of the outbox, and go out behind it."""

from __future__ import annotations

from collections.abc import Callable

from mooring.link.messages import Report


class AnswersBehind:
    """What waits for the end of this pass. On the I/O loop only.

    Args:
        post: Has a function run soon.
        flush: Makes frames of all that is recorded, and returns the number of the last one.
        answer: Sends an answer.
    """

    def __init__(
        self, post: Callable[[Callable[[], None]], None], flush: Callable[[], int], answer: Callable[[Report], None]
    ) -> None:
        self._post = post
        self._flush = flush
        self._answer = answer
        self._waiting: list[Callable[[int], Report]] = []

    def add(self, made: Callable[[int], Report]) -> None:
        """Send what `made` returns, given the number of the frame that holds all that is recorded by then."""
        self._waiting.append(made)
        if len(self._waiting) == 1:
            self._post(self.send)

    def send(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            after = self._flush()
            for made in waiting:
                self._answer(made(after))
