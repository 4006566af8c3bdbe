"""Messages that wait until they may be handed over: for the socket to be ready, for what was missed, for the end of one read.

What answers them once they are stored goes with them. On the I/O loop only.
"""

from __future__ import annotations

from collections.abc import Callable

from mooring.connection.acks import Acks, Owed
from mooring.connection.host import Host
from mooring.connection.recipe import Recipe
from mooring.connection.recorded import RecordedConnection
from mooring.connection.session import Send

Deliver = Callable[[list[tuple[int, bytes]], Owed | None], bool]


class Held:
    """The messages of one connection that wait.

    Args:
        write: Sends an answer over the present socket: its payload, and whether it is binary.
        deliver: Takes messages for the journal or the handler, and what is owed once they are stored.
    """

    __slots__ = ("_acks", "_answers", "_bytes", "_connection", "_deliver", "_host", "_items", "_write")

    def __init__(
        self,
        host: Host,
        connection: RecordedConnection,
        write: Callable[[bytes, bool], None],
        deliver: Deliver,
    ) -> None:
        self._host = host
        self._connection = connection
        self._write = write
        self._deliver = deliver
        self._acks: Acks | None = None
        self._items: list[tuple[int, bytes]] = []
        self._answers: list[tuple[int, Send]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def prepare(self, recipe: Recipe) -> None:
        """Be able to answer what is stored, if `recipe` wants that."""
        connection = self._connection
        if self._acks is None and any(answer.stored for answer in recipe.answers):
            self._acks = connection.acks = Acks(self._host.outbox, self._write, lambda: connection.recorded_seq)

    def add(self, opcode: int, payload: bytes) -> None:
        """Hold a message."""
        self._items.append((opcode, payload))
        self._bytes += len(payload)

    def answer(self, send: Send) -> None:
        """Have the newest message answered once it is stored."""
        self._answers.append((len(self._items) - 1, send))

    @property
    def overflows(self) -> bool:
        """Whether more is held than may be."""
        settings = self._host.settings
        return len(self._items) > settings.inbound_messages or self._bytes > settings.inbound_bytes

    @property
    def owes_much(self) -> bool:
        """Whether so many answers wait for the journal that nothing more should be read."""
        return self._acks is not None and self._acks.waiting_bytes > self._host.settings.inbound_bytes

    def release(self) -> bool:
        """Hand over all; say whether any was no reply to a request."""
        items, answers = self._items, self._answers
        self._items, self._answers, self._bytes = [], [], 0
        owed = Owed(self._acks, answers) if self._acks is not None and answers else None
        return self._deliver(items, owed)

    def drop(self) -> None:
        """The socket has ended: nothing of it is handed over or answered any more."""
        self._items, self._answers, self._bytes = [], [], 0
        if self._acks is not None:
            self._acks.drop()
