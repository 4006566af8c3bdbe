"""Answers that wait for the journal (``after: "stored"``): each goes out once the message that it answers is committed.

What was acknowledged is kept: a message whose answer was lost comes again, one that was answered is never missing. A message is
known by its place among those of its connection. With a handler only the thread of callbacks knows which event became of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from mooring.connection.recorded import RecordedConnection
from mooring.connection.session import Send
from mooring.link.outbox import Outbox


class _Due(msgspec.Struct):
    place: int
    send: Send
    live: bool = True  # its socket is still the present one


class Acks:
    """The answers of one connection that wait. `recorded` is for whoever records its messages, the rest for the I/O loop.

    Args:
        write: Sends an answer over the present socket: its payload, and whether it is binary.
        recorded_seq: How far the outbox has made frames of the connection's events.
    """

    __slots__ = ("_awaited", "_due", "_framed", "_outbox", "_recorded_seq", "_seqs", "_write", "waiting_bytes")

    def __init__(self, outbox: Outbox, write: Callable[[bytes, bool], None], recorded_seq: Callable[[], int]) -> None:
        self._outbox = outbox
        self._write = write
        self._recorded_seq = recorded_seq
        self._due: deque[_Due] = deque()
        self._awaited: deque[int] = deque()  # places that the context has not come to
        self._seqs: deque[int] = deque()  # of the messages that are recorded, in the order of `_due`
        self._framed: deque[tuple[int, _Due]] = deque()
        self.waiting_bytes = 0

    def expect(self, connection: RecordedConnection, answers: list[tuple[int, Send]]) -> None:
        """Have each of `answers` sent once the message of its index is stored, of those that are taken right behind this."""
        before = _last_place(connection)
        for index, send in answers:
            self._due.append(_Due(before + index + 1, send))
            self._awaited.append(before + index + 1)
            self.waiting_bytes += len(send.payload)

    def taken(self, connection: RecordedConnection) -> None:
        """They were taken, up to one that is wrong (no UTF-8, no JSON): from there on nothing comes into the journal, or is answered."""
        last = _last_place(connection)
        while self._due and self._due[-1].place > last:
            self.waiting_bytes -= len(self._due.pop().send.payload)
            self._awaited.pop()
        if connection.handler is None:
            self._seqs.extend(self._awaited)
            self._awaited.clear()
        if self._due:
            self._outbox.watch(self)

    def recorded(self, place: int, seq: int) -> None:
        """The message at `place` is in the outbox, as event `seq`. In the context."""
        try:
            first = self._awaited[0]
        except IndexError:  # also where the I/O loop has just taken back the only one
            return
        if first == place:
            self._awaited.popleft()
            self._seqs.append(seq)

    def framed(self, number: int) -> None:
        """Frame `number` was made (`outbox.Watcher`)."""
        seq = self._recorded_seq()
        while self._seqs and self._seqs[0] <= seq:
            self._seqs.popleft()
            self._framed.append((number, self._due.popleft()))

    def stored(self, number: int) -> None:
        """The journal holds all up to frame `number` (`outbox.Watcher`)."""
        while self._framed and self._framed[0][0] <= number:
            due = self._framed.popleft()[1]
            self.waiting_bytes -= len(due.send.payload)
            if due.live:
                self._write(due.send.payload, due.send.binary)
        if not self._due and not self._framed:
            self._outbox.unwatch(self)

    def drop(self) -> None:
        """The socket has ended: what it is owed belongs to no other one. The peer sends again what it takes for lost."""
        for due in (*self._due, *(due for _, due in self._framed)):
            due.live = False


class Owed(msgspec.Struct, frozen=True):
    """What `acks` sends of the messages of one delivery: each answer with the index of the message that must be stored before."""

    acks: Acks
    answers: list[tuple[int, Send]]


def _last_place(connection: RecordedConnection) -> int:
    """Return the place of the newest message: without a handler it is recorded at once, and that is its seq."""
    return connection.seq if connection.handler is None else connection.posted
