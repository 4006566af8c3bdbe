"""Requests over one connection, as they are made: written, timed, and answered. On the I/O loop only.

Which message is the reply to which is decided by `requests`, which is pure. Here is who waits for it: a request of the API, or
code in the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.connection.host import Host
from mooring.connection.matcher import Frame
from mooring.connection.recorded import RecordedConnection
from mooring.connection.requests import Ids, Refused, Reply, Requests
from mooring.connection.requests import Protocol as RequestProtocol
from mooring.connection.sends import Awaited, Sends
from mooring.connection.session import Send
from mooring.link.messages_sent import Replied, RequestFailed, RequestTaken, WhyNoReply
from mooring.metrics import count
from mooring.wire.frames import TEXT
from mooring.wire.outbound import Outbound

Answer = Replied | RequestFailed | RequestTaken

_REFUSALS: dict[Refused, WhyNoReply] = {Refused.LIMIT: "limit", Refused.ID_IN_USE: "id", Refused.NO_PLACE: "place"}


class Waiter(msgspec.Struct, eq=False):
    """Who waits for one reply; `request` 0: code in the worker. It is known by itself.

    `done` gets the answer, once. `later`: it waits for nothing but that the request is on its way.
    """

    request: int
    done: Callable[[Answer], None]
    key: str | None = None
    later: bool = False
    began_at: float = 0.0
    written: bool = False
    told: bool = False
    counted: bool = False
    counts: bool = True


class Asker(Protocol):
    """The connection, as its requests see it."""

    @property
    def open_outbound(self) -> Outbound | None:
        """Where messages go just now; None: no socket is ready."""

    @property
    def sends(self) -> Sends:
        """What is sent on it."""

    def resume_if_room(self) -> None:
        """Read again if there is room: there may be more of it while code waits."""


class Found(msgspec.Struct, frozen=True):
    """A message that is a reply. `place`: among those that are recorded; None: it is hidden."""

    waiter: Waiter
    payload: bytes
    failed: bool
    place: int | None


class Asking:
    """The requests of one connection."""

    def __init__(
        self, host: Host, connection: RecordedConnection, asker: Asker, protocol: RequestProtocol, ids: Ids
    ) -> None:
        self._host = host
        self._connection = connection
        self._asker = asker
        self._requests = Requests(protocol, ids, host.settings.max_pending_requests)
        self._keyed: dict[str, Waiter] = {}
        self._code_waits = 0

    @property
    def late_replies(self) -> int:
        """Replies that nobody waited for any more."""
        return self._requests.late_replies

    @property
    def code_waits(self) -> bool:
        """Whether code in the worker waits for a reply."""
        return self._code_waits > 0

    @property
    def pending(self) -> int:
        """How many wait for a reply, or for their turn."""
        return self._requests.pending

    def ask(self, waiter: Waiter, body: bytes, timeout_s: float) -> None:
        """Send a request, the JSON text `body`, and have `waiter` get the answer, after so long at most."""
        known = None if waiter.key is None else self._keyed.get(waiter.key)
        if known is not None:  # asked again after a crash of the service: it is sent once
            known.request = waiter.request
            return
        now = self._host.loop.time()
        waiter.began_at = time.monotonic()  # the loop's time stands still during a pass
        if self._asker.open_outbound is None:
            self._fail(waiter, "state")
            return
        self._requests.max_pending = self._host.settings.max_pending_requests
        asked = self._requests.ask(waiter, body, now, timeout_s)
        if isinstance(asked, Refused):
            self._fail(waiter, _REFUSALS[asked])
            return
        if waiter.key is not None:
            self._keyed[waiter.key] = waiter
        if not waiter.request:
            self._code_waits += 1
            waiter.counted = True
            self._asker.resume_if_room()
        if asked.payload is not None:
            self._write(waiter, asked.payload)
        if waiter.later:
            self._done(waiter, RequestTaken(waiter.request, asked.id))
        self._set_alarm()

    def _write(self, waiter: Waiter, payload: bytes) -> None:
        def written() -> None:
            waiter.written = True

        def unwritten(stalled: bool) -> None:
            self._requests.cancel(waiter)
            self._fail(waiter, "stalled" if stalled else "state")
            self._next()

        outbound = self._asker.open_outbound
        if outbound is None:
            unwritten(False)
        elif not self._asker.sends.send_request(payload, outbound, Awaited(written, unwritten)):
            unwritten(True)

    def _next(self) -> None:
        """Write the next one that waits for its turn."""
        turn = self._requests.turn()
        if turn is not None:
            waiter, payload = turn
            assert isinstance(waiter, Waiter), "nobody else asks"
            self._write(waiter, payload)
        self._set_alarm()

    # What comes.

    def take(
        self, items: list[tuple[int, bytes]], answers: list[tuple[int, Send]]
    ) -> tuple[list[tuple[int, bytes]], list[Found], list[tuple[int, Send]]]:
        """Look through the messages of one read.

        Args:
            answers: What is owed once a message is stored, each with the index of that one.

        Returns:
            The messages that are to be recorded, the replies among them all, and `answers` by the messages that are left.
        """
        if not self._requests.asked:
            return items, [], answers
        requests, data_type = self._requests, self._connection.options.data_type
        late = requests.late_replies
        places = {index: 0 for index, _ in answers}
        kept: list[tuple[int, bytes]] = []
        found: list[Found] = []
        for index, item in enumerate(items):
            opcode, payload = item
            reply = requests.reply(Frame(payload, data_type != "auto" or opcode == TEXT))
            # What an answer waits for must come into the journal, whatever else it is.
            hidden = isinstance(reply, Reply) and requests.protocol.hide and index not in places
            if isinstance(reply, Reply):
                assert isinstance(reply.request, Waiter), "nobody else asks"
                found.append(Found(reply.request, payload, reply.failed, None if hidden else len(kept)))
            if index in places:
                places[index] = len(kept)
            if not hidden:
                kept.append(item)
        if requests.late_replies != late:
            self._host.metrics.late_replies += requests.late_replies - late
            self._host.touch(self._connection)
        return kept, found, [(places[index], send) for index, send in answers]

    def answer(self, found: list[Found], recorded: int, first_seq: int) -> None:
        """Answer those whose reply has come.

        Args:
            recorded: So many of the messages that `take` has returned became events.
            first_seq: Of the first of them; 0: a handler gets them, and they are events when it has had its turn.
        """
        after = self._host.flush()
        now = time.monotonic()
        for one in found:
            seq = 0 if not first_seq or one.place is None or one.place >= recorded else first_seq + one.place
            ms = round((now - one.waiter.began_at) * 1000, 3)
            self._done(one.waiter, Replied(one.waiter.request, after, seq, one.payload, one.failed, ms))
        self._next()

    # How it goes without a reply.

    def due(self, now: float) -> None:
        """The time of some is over (`host.Redialler`)."""
        for waiter in self._requests.expire(now):
            assert isinstance(waiter, Waiter), "nobody else asks"
            self._fail(waiter, "timeout")
        self._next()

    def granted(self) -> None:
        """It asks for no turn (`host.Redialler`)."""

    def lost(self) -> None:
        """The socket has ended, or is being closed: nobody gets a reply any more. Idempotent."""
        for waiter, _ in self._requests.lost():
            assert isinstance(waiter, Waiter), "nobody else asks"
            self._fail(waiter, "lost" if waiter.written else "state")
        self._host.redials.cancel(self)

    def _fail(self, waiter: Waiter, why: WhyNoReply) -> None:
        self._done(waiter, RequestFailed(waiter.request, why, self._connection.refusing.value))

    def _done(self, waiter: Waiter, answer: Answer) -> None:
        if waiter.key is not None and self._keyed.get(waiter.key) is waiter:
            del self._keyed[waiter.key]
        if waiter.counted:
            waiter.counted = False
            self._code_waits -= 1
        if waiter.counts:
            waiter.counts = isinstance(answer, RequestTaken)  # its reply, or its lack, is still to be counted
            self._count(answer)
        if not waiter.told:
            waiter.told = True
            waiter.done(answer)

    def _count(self, answer: Answer) -> None:
        metrics = self._host.metrics
        if isinstance(answer, Replied):
            count(metrics.requests, "error" if answer.failed else "replied")
            metrics.request.observe(answer.ms / 1000)
        elif isinstance(answer, RequestFailed):
            count(metrics.requests, answer.why if answer.why in ("timeout", "lost") else "refused")

    def _set_alarm(self) -> None:
        self._host.redials.alarm(self, self._requests.next_deadline)
