"""Between the threads of one worker: what others have the I/O loop do, and how far they may run ahead of it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionState
from mooring.deadline import PASS_S
from mooring.errors import MooringError, SendError

MESSAGE_COST_BYTES = 256  # what a message takes beside its payload: an empty one is bounded too


class Posts:
    """What the I/O loop is to do soon. Made on its thread; `post` and `wake` are for every thread.

    Args:
        afterwards: Called once behind all that was posted.

    Attributes:
        awake: The I/O loop is about to look here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, afterwards: Callable[[], None]) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._afterwards = afterwards
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.awake = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function` run on the I/O loop; many posts cost one wake-up."""
        self._posted.append((function, args))
        self.wake()

    def wake(self) -> None:
        """Have the I/O loop look here soon."""
        if not self.awake:
            self.awake = True
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self.run)  # its own loop need not be woken: two system calls, and a pass
                return
            try:
                self._loop.call_soon_threadsafe(self.run)
            except RuntimeError:  # the loop is closed: the process is ending
                self.awake = False

    def run(self) -> None:
        """Do what was posted. On the I/O loop only."""
        self.awake = False  # before emptying: what comes later wakes again
        posted = self._posted
        for _ in range(len(posted)):
            function, args = posted.popleft()
            try:
                function(*args)
            except Exception as exc:  # noqa: BLE001 - whatever it is: it holds up nobody else, also as the worker ends
                self._loop.call_exception_handler({"message": f"{function} has failed", "exception": exc})
        self._afterwards()


class Reservations:
    """Room for the messages that code in the worker hands over to peers that do not read.

    Args:
        max_bytes: Of one connection; a single message may be longer.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._changed = threading.Condition()

    def reserve(self, connection: RecordedConnection, size: int) -> bool:
        """Wait for room for `size` bytes to `connection`; on any thread but the I/O loop. Returns False, and nothing is
        reserved, if the connection is no longer Connected: what it had no room for was not sent.

        Raises:
            SendError: If the peer has not read for ``sendTimeout``.
        """
        size += MESSAGE_COST_BYTES

        def has_room() -> bool:
            reserved = connection.reserved
            return (
                reserved == 0 or reserved + size <= self._max_bytes or connection.state is not ConnectionState.CONNECTED
            )

        with self._changed:
            # Once more, shortly: if the whole worker stood still, the I/O loop has not yet seen what the peer has read.
            waits_s = (connection.options.send_timeout_s, PASS_S)
            if not has_room() and not any(self._changed.wait_for(has_room, wait_s) for wait_s in waits_s):
                raise SendError(connection.id)
            if connection.state is not ConnectionState.CONNECTED:
                return False
            connection.reserved += size
            return True

    def release(self, connection: RecordedConnection, size: int) -> None:
        """Give reserved room back."""
        with self._changed:
            connection.reserved -= size + MESSAGE_COST_BYTES
            self._changed.notify_all()


class Room:
    """Room in a queue that the I/O loop empties. `put` and `put_at_once` are for every thread but the I/O loop, the rest
    for that alone.

    Args:
        full: Says whether there is none; once it has said so, `made` follows.
    """

    def __init__(self, full: Callable[[], bool]) -> None:
        self._full = full
        self._closed = self._ended = False
        self._changed = threading.Condition()

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function`, which puts something in, when there is room. Until `close` it waits, however long that takes.

        Raises:
            MooringError: If the worker ends before there is room, or has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._full())
            if self._full():
                raise MooringError("the worker is being killed, and the journal takes nothing more")
            self.put_at_once(function, *args)

    def put_at_once(self, function: Callable[..., object], *args: Any) -> None:
        """Likewise, but whether there is room or not.

        Raises:
            MooringError: If the worker has ended.
        """
        with self._changed:
            if self._ended:
                raise MooringError("the worker has ended")
            function(*args)

    def made(self) -> None:
        """There is room again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed = True
        self.made()

    def end(self) -> None:
        """Nothing is put in any more: what is emptied from now on is emptied for the last time."""
        with self._changed:
            self._ended = True
