"""What is recorded of a connection that stays, and what is shown of it: its states, its events, its record. On the I/O loop only.

What may follow what is a table (`kept_state`), and every step goes through `_move`, which records what the law says of it. What
moves it is in `kept.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from mooring.connection import received
from mooring.connection.downtime import Downtime, why_ended
from mooring.connection.fill import Fill
from mooring.connection.host import Host
from mooring.connection.kept_state import MAY_QUEUE, KeptEvent, KeptState, phase, records, status, step
from mooring.connection.queueing import QueueingConnection
from mooring.connection.state import ConnectionState
from mooring.errors import ErrorEntry
from mooring.events import Kind, OpenEvent, now_us
from mooring.kept_events import DisconnectEvent
from mooring.link.record import ConnectionCreated, ConnectionUpdate, Down, KeptUpdate, Terminated
from mooring.metrics import LONG_SECONDS, count
from mooring.options import ConnectionOptions
from mooring.staying import DEFAULT


class KeptLaw(QueueingConnection):
    """A connection that was asked to ``reconnect``, as far as others see it.

    Attributes:
        kept_state: Where it is; `state` is what is shown of it.
        number: Of the present or last socket that was ready; 0 before the first.
        messages_filled: How many callbacks have filled, in all; written by the context.
    """

    __slots__ = (
        "_downtime", "_entered_at", "_fill", "_next_at", "_ordered_end", "kept_state", "messages_filled", "number",
        "socket_opened_at_us",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        resumed: ConnectionUpdate | None = None,
    ) -> None:
        super().__init__(host, created, options, handler, resumed)
        self._downtime = Downtime(created.created_at_us, host.loop.time())
        self._fill: Fill | None = None
        self._next_at = math.inf  # of the next attempt, the loop's time
        self._entered_at = self._downtime.began_at  # the present state
        self._ordered_end = ""  # who has ordered it, for the metrics: "asked", "worker"
        self.kept_state = KeptState.CONNECTING
        self.number = 0
        self.messages_filled = 0
        self.socket_opened_at_us: int | None = None
        if resumed is not None:
            self._resume(resumed)

    def _resume(self, held: ConnectionUpdate) -> None:
        """Go on where another process of this worker has left it: the count of its events, its figures, its downtime."""
        kept = held.kept or KeptUpdate()
        self.seq = self.recorded_seq = held.seq
        self.messages_in, self.messages_out = held.messages_in, held.messages_out
        self.bytes_in, self.bytes_out = held.bytes_in, held.bytes_out
        self.last_message_at_us, self.opened_at_us, self.protocol = (
            held.last_message_at_us, held.opened_at_us, held.protocol
        )  # fmt: skip
        self.number = kept.socket
        self.messages_filled = kept.messages_filled
        self.socket_opened_at_us = kept.socket_opened_at_us
        self._downtime.resume(kept, self._host.loop.time(), now_us())
        self.kept_state = KeptState.BLOCKED
        self.state = ConnectionState(status(self.kept_state, self.number))

    def _move(self, event: KeptEvent, end: Terminated | None = None, errors: list[ErrorEntry] | None = None) -> None:
        """Go to the next state, and record what the law says; the one place that does.

        Args:
            end, errors: Of `KeptEvent.ENDED`: how it ended, and what ``onError`` is told; nothing: there is none.
        """
        queue = self._sends.queue
        left, now = self.kept_state, self._host.loop.time()
        kinds = records(left, event, self.number, unsent=bool(queue.messages), error=bool(errors))
        self.kept_state = step(left, event)
        self._measure(left, event, now - self._entered_at)
        self._entered_at = now
        if event is KeptEvent.READY:
            self.number += 1
        self.state = ConnectionState(status(self.kept_state, self.number))
        self._host.touch(self)
        self._set_alarm()
        for kind in kinds:
            self._count(kind, end, errors)
            match Kind[kind]:
                case Kind.onOpen:
                    self._record(Kind.onOpen, OpenEvent())
                case Kind.onDisconnect:
                    self._record(Kind.onDisconnect, self._lost_event())
                case Kind.onReconnect:
                    self._record(Kind.onReconnect, self._downtime.reconnect_event(self.number, self.protocol))
                case Kind.onUnsent:
                    unsent = queue.give_up("terminated" if event is KeptEvent.ENDED else "workerDied")
                    assert unsent is not None, "the law says so"
                    self.unsent(unsent)
                case Kind.onError:
                    self._record_error(errors or [])
                case Kind.onTerminate:
                    assert end is not None, "who ends it says how"
                    self._record_end(end.code, end.reason, was_clean=end.was_clean)

    def _lost_event(self) -> DisconnectEvent:
        return self._downtime.disconnect_event(self.number, self._next_wall_us(), self._sends.waiting)

    def _measure(self, left: KeptState, event: KeptEvent, seconds: float) -> None:
        """Count how long it was in the state that it has `left`."""
        metrics = self._host.metrics
        if left is KeptState.WAITING and event is KeptEvent.TICKET_TAKEN:
            metrics.backoff_wait.observe(seconds, LONG_SECONDS)
        elif left is KeptState.LIMITED and event in (KeptEvent.RENEW_BEGUN, KeptEvent.DIAL_BEGUN):
            metrics.limiter_wait.observe(seconds, LONG_SECONDS)
        elif event is KeptEvent.READY:
            metrics.opening.observe(seconds)

    def _count(self, kind: str, end: Terminated | None, errors: list[ErrorEntry] | None) -> None:
        metrics = self._host.metrics
        if kind == Kind.onDisconnect.name:
            count(metrics.disconnects, self._downtime.cause)
        elif kind == Kind.onReconnect.name:
            metrics.reconnects += 1
            metrics.down.observe(self._downtime.last_s, LONG_SECONDS)
        elif kind == Kind.onTerminate.name and end is not None:
            policy = self.options.reconnect or DEFAULT
            err_code = errors[0].err_code if errors else None
            count(
                metrics.terminations, why_ended(self._ordered_end, err_code, refused=end.code in policy.refused_codes)
            )

    @property
    def refusing(self) -> ConnectionState:
        """As `RecordedConnection.refusing`: after this socket there will be another one."""
        return ConnectionState.RECONNECTING if self.state is ConnectionState.CONNECTED else self.state

    def _next_wall_us(self) -> int | None:
        """When the next attempt is, or was, to begin; None: one is under way, or none is planned."""
        if self.kept_state is KeptState.WAITING:
            return now_us() + round(max(0.0, self._next_at - self._host.loop.time()) * 1e6)
        return now_us() if self.kept_state is KeptState.LIMITED else None

    def _heard_at_us(self) -> int | None:
        if self._socket is None:
            return self._downtime.heard_at_us
        return now_us() - round((self._host.loop.time() - self._socket.last_byte_at) * 1e6)

    @property
    def may_queue(self) -> bool:
        """There will be a socket, as far as is known."""
        return self.kept_state is KeptState.CONNECTED or self.kept_state in MAY_QUEUE

    # What a callback fills in. In the context.

    def begin_fill(self) -> Fill:
        """A callback begins in which `fill` may be called; whoever runs it ends what is returned."""
        self._fill = Fill(self.options.data_type, self._host.settings.mailbox_bytes)
        return self._fill

    def fill(self, items: Iterable[Any]) -> int | None:
        """Put messages in front of those that wait, and return how many; None where no callback runs that may.

        Raises:
            TypeError, LimitReached: As `Fill.add`.
        """
        found = list(items)
        if self._fill is None or not self._fill.add(found):
            return None
        self.messages_filled += len(found)
        return len(found)

    def fill_in(self, items: Iterable[Any]) -> None:
        """Take what a function has fetched (``catchUp``), before all messages of the present socket.

        Raises:
            TypeError: If one is not of the data type; none is taken then.
            LimitReached: If they are more than ``worker.mailbox_bytes``.
        """
        self.messages_filled += received.fill(self._host, self, items)
        self._host.touch(self)

    # The record.

    @property
    def down(self) -> Down | None:
        """What it does to get a socket; None: one is ready, or it ends."""
        return self._downtime.shown(phase(self.kept_state), self._next_wall_us())

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        step, steps = self.opening
        kept = KeptUpdate(
            socket=self.number,
            reconnects=max(0, self.number - 1),
            socket_opened_at_us=self.socket_opened_at_us,
            recorded_at_us=self._recorded_at_us(),
            last_heard_at_us=self._heard_at_us(),
            down=self.down,
            down_us=self._downtime.total_us,
            messages_filled=self.messages_filled,
            keep_alives=self.keep_alives,
            late_replies=self.late_replies,
            queued_messages=self._sends.queue.messages,
            queued_bytes=self._sends.queue.bytes,
            queue_id=self._sends.queue.last_id,
            step=step,
            steps=steps,
        )
        return msgspec.structs.replace(super().update(), kept=kept)

    def _recorded_at_us(self) -> int | None:
        if self.handler is None:
            return self.last_message_at_us
        # The context is ahead of the frame in which this record goes: then what was known before is still true.
        if self.recorded_to is not None and self.recorded_to[0] <= self.recorded_seq:
            self._downtime.recorded_at_us = self.recorded_to[1]
        return self._downtime.recorded_at_us
