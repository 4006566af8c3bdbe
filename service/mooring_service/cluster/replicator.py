"""What a node publishes next on its chain, and what it makes of the answer: a state table, and the decisions around it. Pure.

Nothing of a message that was sent need be remembered: after any doubt the chain's own last message says what is replicated, and the next one
is built anew from there. Who sends, waits and reads is `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto

import msgspec

from mooring.state_table import next_state
from mooring_service.cluster.message import (
    ADD,
    BEAT,
    LOST,
    PART,
    PART_BYTES,
    VERSION,
    Message,
    Part,
    cut,
    piece,
    raw,
)

NOTHING = msgspec.Raw(b"\xc0")  # nil


class State(Enum):
    """Of a chain's one writer."""

    IDLE = auto()  # nothing is on its way
    WAITING = auto()  # one message is
    DOUBT = auto()  # nobody knows what became of it
    PROBING = auto()  # a beat is, behind a message older than our last one
    DEAD = auto()  # this life is over
    BACK = auto()  # the log has lost what it had acknowledged
    STRANGER = auto()  # another process writes on this chain


class Event(Enum):
    """What happens to it."""

    SENT = auto()
    ACKED = auto()
    UNSURE = auto()
    AGREED = auto()  # the chain's last message is ours
    OVER = auto()
    OLDER = auto()
    OTHER = auto()
    RISEN = auto()
    WENT_BACK = auto()


TABLE: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {Event.SENT: State.WAITING, Event.UNSURE: State.DOUBT, Event.OVER: State.DEAD},
    State.WAITING: {Event.ACKED: State.IDLE, Event.UNSURE: State.DOUBT, Event.WENT_BACK: State.BACK},
    State.DOUBT: {
        Event.UNSURE: State.DOUBT,
        Event.AGREED: State.IDLE,
        Event.OVER: State.DEAD,
        Event.OLDER: State.PROBING,
        Event.OTHER: State.STRANGER,
    },
    State.PROBING: {Event.ACKED: State.BACK, Event.UNSURE: State.DOUBT},
    State.DEAD: {Event.RISEN: State.IDLE},
    State.BACK: {},
    State.STRANGER: {},
}


class Head(msgspec.Struct, frozen=True):
    """The last message of a chain, as the engine tells it."""

    seq: int
    message: Message


class Identity(msgspec.Struct, frozen=True):
    """Who writes: a node in one of its lives, by one start of its service.

    `runs`: the starts of this life, this one among them. `born`: the last addition of the life before.
    """

    node: str
    life: str
    run: bytes
    runs: frozenset[bytes]
    born: int = 0


class Replicator:
    """The writer of one chain.

    Args:
        nonce: Returns 4 new random bytes.

    Attributes:
        prev: Sequence of the chain's last message (0: none).
        replicated: All additions up to this one are in the log.
        acked_at: When the last acknowledged message was sent.
        acked_seq: Its sequence.
    """

    def __init__(
        self, identity: Identity, epoch: str, prev: int, replicated: int, now: float, nonce: Callable[[], bytes]
    ) -> None:
        self.identity = identity
        self.epoch = epoch
        self.state = State.IDLE
        self.prev = prev
        self.replicated = replicated
        self.acked_at = now
        self.acked_seq = prev
        self._nonce = nonce
        self._sent_at = now
        self._older = 0  # what was told as the last message, in PROBING
        self._sent = b""  # the nonce of the message that was sent last
        self._pieces: list[bytes] = []  # of the addition that goes in parts
        self._piece = 0
        self._last = replicated  # what is replicated once the message that is on its way is acknowledged

    def _go(self, event: Event) -> None:
        self.state = next_state(TABLE, self.state, event)

    def message(self, kind: str, now: float, extra: msgspec.Raw = NOTHING) -> Message:
        """Return a message without additions, which is sent now."""
        self._pieces = []
        self._last = self.replicated
        return self._made(kind, now, 0, [], extra)

    @property
    def in_parts(self) -> bool:
        """True while parts of an addition are in the log, and others are to follow: `part` is next."""
        return bool(self._pieces)

    def add(self, additions: list[bytes], now: float) -> Message:
        """Return the next message, sent now: as many of the additions behind `replicated` as it holds (there is one at least)."""
        if len(additions[0]) > PART_BYTES:
            self._pieces, self._piece = cut(additions[0]), 0
            return self.part(now)
        size, count = 0, 0
        for one in additions:
            size += len(one)
            if count and size > PART_BYTES:
                break
            count += 1
        self._last = self.replicated + count
        return self._made(ADD, now, self.replicated + 1, [msgspec.Raw(one) for one in additions[:count]])

    def part(self, now: float) -> Message:
        """Return the next part, sent now."""
        index, count = self._piece, len(self._pieces)
        self._last = self.replicated + (index == count - 1)
        extra = raw(Part(index, count))
        return self._made(PART, now, self.replicated + 1, [piece(self._pieces[index])], extra)

    def _made(
        self, kind: str, now: float, first: int, additions: list[msgspec.Raw], extra: msgspec.Raw = NOTHING
    ) -> Message:
        self._go(Event.SENT)
        self._sent_at = now
        who = self.identity
        self._sent = who.run + self._nonce()
        return Message(
            VERSION, kind, who.node, who.life, self._sent, self.prev, self.epoch, first, self._last, additions, extra
        )  # fmt: skip

    def probe(self, now: float) -> Message:
        """Return a beat that follows what the engine has told as the last message, though we know a later one.

        A conflict says that it was told by a leader that is none any more; only if it is stored, the log has gone back.
        """
        behind = self._older
        self._sent_at = now
        who = self.identity
        self._sent = who.run + self._nonce()
        return Message(VERSION, BEAT, who.node, who.life, self._sent, behind, self.epoch, 0, self.replicated)

    def acked(self, seq: int, applied: int) -> None:
        """The message is stored at `seq`; `applied` is what the tail had read of the log when it was sent."""
        probing = self.state is State.PROBING
        if not probing and seq <= applied:
            self._go(Event.WENT_BACK)
            return
        self._go(Event.ACKED)
        self.prev = self.acked_seq = seq
        self.acked_at = self._sent_at
        if probing:
            return
        self.replicated = self._last
        if self._pieces:
            self._piece += 1
            if self._piece == len(self._pieces):
                self._pieces = []

    def unsure(self) -> None:
        """Nobody knows what became of it: `found` is to be asked."""
        self._go(Event.UNSURE)
        self._pieces = []

    def found(self, head: Head | None, first_seq: int) -> None:
        """Take what the engine tells as the chain's last message (None: there is none); `first_seq` is the first that the log keeps.

        In PROBING afterwards: `probe` is to be sent behind it.
        """
        who = self.identity
        if head is None:
            if self.prev == 0:
                self._go(Event.AGREED)
            elif first_seq > self.prev:  # we were silent for longer than the log keeps
                self._go(Event.OVER)
            else:
                self._older = 0
                self._go(Event.OLDER)
            return
        message = head.message
        if message.life == who.life and message.kind == LOST:
            self._go(Event.OVER)
        elif head.seq == self.prev:
            self._go(Event.AGREED)
        elif head.seq < self.prev:
            self._older = head.seq
            self._go(Event.OLDER)
        elif message.life != who.life or message.run not in who.runs:
            self._go(Event.OTHER)
        else:
            self._go(Event.AGREED)
            if (
                message.nonce == self._sent
            ):  # an earlier one may have come late: the lease is not counted from what was sent since
                self.acked_at = self._sent_at
            self.prev, self.replicated = head.seq, message.last
            self.acked_seq = max(self.acked_seq, head.seq)

    def risen(self, identity: Identity, prev: int) -> None:
        """A new life begins behind what is the chain's last message."""
        self._go(Event.RISEN)
        self.identity = identity
        self.prev, self.replicated = prev, identity.born
        self._pieces = []


class Start(Enum):
    """How a service that starts finds its chain."""

    CONTINUE = auto()  # in the same life, behind its last message
    NEW_LIFE = auto()  # the old one is over, and that is said
    FORGOTTEN = auto()  # it was silent for longer than the log keeps: the old life is over, whoever has said so, and that is to be said again
    BEHIND = auto()  # the journal has lost what the log has: the old life is to be declared lost
    OTHER = auto()  # another life, or process: if it is not heard any more, that is to be declared lost


def start(identity: Identity, journal_last: int, published: bool, head: Head | None) -> Start:
    """Return how to begin. `journal_last`: the last addition of the journal; `published`: the log has held something of this state."""
    if head is None:
        return Start.FORGOTTEN if published else Start.CONTINUE
    message = head.message
    if message.kind == LOST:
        return Start.NEW_LIFE if published or message.life == identity.life else Start.CONTINUE
    if message.life != identity.life:
        return Start.OTHER
    if message.last > journal_last:
        return Start.BEHIND
    return Start.CONTINUE if message.run in identity.runs else Start.OTHER


def forgets(identity: Identity, journal_last: int, head: Head | None) -> bool:
    """Say whether a journal lacks what its chain has borne: which ids it has given out cannot be told then."""
    return head is not None and (head.message.life != identity.life or head.message.last > journal_last)
