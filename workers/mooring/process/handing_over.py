"""What was recorded, on its way from the outbox to the link: when frames are made of it, and which answers go out behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mooring.link.messages import Report
from mooring.link.outbox import Outbox, Recorded
from mooring.process.threads import Posts

HOLD_S = 0.02  # a journal that is slower than this holds up nothing on its way to the service


class HandingOver:
    """The one who flushes the outbox. `post` and `wake` are for every thread, all else is for the I/O loop only.

    Args:
        answer: Sends an answer.

    Attributes:
        post: Has a function run soon on the I/O loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox, answer: Callable[[Report], None]) -> None:
        self._loop = loop
        self._outbox = outbox
        self._answer = answer
        self._posts = Posts(loop, self._hand_over)
        # Called for each message: without a method of ours in between.
        self.post = self._posts.post
        self._held: asyncio.Handle | None = None
        self._behind: list[Callable[[int], Report]] = []

    def touch(self, connection: Recorded) -> None:
        """The record of `connection` has changed: it is reported with the next flush."""
        self._outbox.touch(connection)
        self.wake()

    def touch_later(self, connection: Recorded) -> None:
        """Likewise, but what is about to follow may bring that flush: after `HOLD_S` nobody waits for it any more."""
        self._outbox.touch(connection)
        self._hold()

    def wake(self) -> None:
        """Have what was recorded handed over soon; called behind `Outbox.add`, from any thread, for each message."""
        # What waits behind a frame needs no wake-up: the end of that wait, or `_hand_over_late`, takes it along.
        if not self._posts.awake and (self._held is None or not self._outbox.holds):
            self._posts.wake()

    def _hand_over(self) -> None:
        if not self._outbox.flush_behind():
            self._hold()

    def _hold(self) -> None:
        if self._held is None:
            self._held = self._loop.call_later(HOLD_S, self._hand_over_late)

    def _hand_over_late(self) -> None:
        self._held = None
        self._outbox.flush()

    def flush(self) -> int:
        """Make frames of everything now; return the number of the last one."""
        self._outbox.flush()
        return self._outbox.number

    def answer_behind(self, made: Callable[[int], Report]) -> None:
        """Answer behind all that is recorded, with all others of this pass of the loop: one frame holds what they speak of.

        Args:
            made: Given the number of the last frame, returns the answer.
        """
        self._behind.append(made)
        if len(self._behind) == 1:
            self.post(self._answer_behind)

    def _answer_behind(self) -> None:
        behind, self._behind = self._behind, []
        if behind:
            try:
                self._outbox.flush()
            finally:  # events that cannot be handed over hold up no answer
                self._answer_all(behind, self._outbox.number)

    def _answer_all(self, behind: list[Callable[[int], Report]], after: int) -> None:
        for made in behind:
            try:
                self._answer(made(after))
            except Exception as exc:  # noqa: BLE001 - whatever it is: it holds up nobody else, also as the loop ends
                self._loop.call_exception_handler({"message": "an answer cannot be given", "exception": exc})

    def end(self) -> None:
        """Do what was posted, and hand over all that was recorded."""
        try:
            self._posts.run()
        finally:  # a hand-over that raises holds up nobody else
            self._answer_behind()
            self._outbox.flush()
