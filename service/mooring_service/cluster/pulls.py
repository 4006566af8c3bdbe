"""Reading the log from a place on: an ephemeral pull consumer of JetStream, as long as nothing goes wrong with it.

Owns the consumer and what it is asked for; one that has failed is thrown away, and a new one, with a new inbox, begins where the reader is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import Any

import msgspec

from mooring.deadline import first_of
from mooring_service.cluster.engine import Answer, Down, Engine, EngineError, Stored, Unknown

BATCH = 200
MAX_BYTES = 1 << 20  # of one pull: larger bursts cost nats-py's parser 2 to 4 µs an event
EXPIRES_S = 5
HEARTBEAT_S = 1
SILENT_S = 3.0  # without a message or a heartbeat for so long it has failed
INACTIVE_S = 30

_NS = 10**9


class Pull:
    """One consumer, on one link.

    Attributes:
        pending: How many messages the log held behind the last one, as the engine said with it.
    """

    def __init__(self, engine: Engine, stream: str, first: int) -> None:
        link = engine.link
        if link is None:
            raise Down(engine.failure)
        self._engine, self._link, self._stream, self._first = engine, link, stream, first
        name = f"{engine.settings.node}-{os.urandom(4).hex()}"
        self._name = name
        # A new one each time: an older pull may still deliver.
        self._inbox = f"_INBOX_{engine.settings.node}.tail.{name}"
        self._received: deque[Stored] = deque()
        self._failure: EngineError | None = None
        self._wanted = asyncio.Event()
        self._left: dict[int, int] = {}  # by number of the pull: messages that it may still bring
        self._pulls = 0
        self._subscription: Any = None
        self.pending = 0

    async def open(self) -> None:
        """Make the consumer.

        Raises:
            EngineError: If it cannot be made just now.
        """
        self._subscription = await self._engine.subscribe(self._link, f"{self._inbox}.*", self._take)
        config = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._first,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_S * _NS,
        }
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        await self._engine.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)
        await self._ask()

    async def close(self) -> None:
        """Give it up; the engine forgets it after a while."""
        if self._subscription is not None:
            await self._engine.unsubscribe(self._subscription)
        with contextlib.suppress(EngineError):
            await self._engine.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")

    async def _ask(self) -> None:
        self._pulls += 1
        self._left[self._pulls] = BATCH
        asked = {
            "batch": BATCH,
            "max_bytes": MAX_BYTES,
            "expires": EXPIRES_S * _NS,
            "idle_heartbeat": HEARTBEAT_S * _NS,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._engine.publish(subject, msgspec.json.encode(asked), f"{self._inbox}.{self._pulls}")

    async def _take(self, answer: Answer) -> None:
        status = answer.headers.get("Status")
        if status is not None:
            self._take_status(status, answer)
        else:
            tokens = answer.reply.split(".")
            # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.…, or with <domain>.<account> before the stream
            at = 5 if len(tokens) == 9 else 7
            try:
                seq, self.pending = int(tokens[at]), int(tokens[at + 3])
            except (IndexError, ValueError):
                self._failure = Unknown(f"a message of the log without its place: {answer.reply[:100]}")
            else:
                self._received.append(Stored(seq, answer.subject, answer.data))
            for number in self._left:  # the oldest pull brings it
                self._left[number] -= 1
                if not self._left[number]:
                    del self._left[number]
                break
        self._wanted.set()

    def _take_status(self, status: str, answer: Answer) -> None:
        if status == "100":  # a heartbeat
            return
        text = answer.headers.get("Description", "")
        number = answer.subject.rpartition(".")[2]
        if number.isdigit():
            self._left.pop(int(number), None)
        if status == "409" and "Batch Completed" not in text and "Exceeds MaxBytes" not in text:
            self._failure = Unknown(f"the consumer is gone: {text}")

    async def next(self) -> list[Stored]:
        """Return what has come, in order; ``[]`` when the log had nothing new for a while.

        Raises:
            EngineError: If it has failed: a new one is to be opened.
        """
        if not self._received:
            self._wanted.clear()
            gone = self._link.gone
            waiting = asyncio.ensure_future(self._wanted.wait())
            either: set[asyncio.Future[Any]] = {waiting, gone}
            try:
                await first_of(either, SILENT_S)
                if not waiting.done():
                    raise Unknown("the link is gone" if gone.done() else f"nothing was heard for {SILENT_S:g} s")
            finally:
                waiting.cancel()
        found = list(self._received)
        self._received.clear()
        if not found and self._failure is not None:
            raise self._failure
        if sum(self._left.values()) <= BATCH // 2 and self._failure is None:
            await self._ask()
        return found
