"""What processes say of their connections when they have a link: which they do not know of, and how the others are.

The first is a value of the moment (`adoption`); the rest is read in small pieces, since there may be twenty thousand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from mooring.background import Background
from mooring.errors import LinkError
from mooring.link import held
from mooring.link.messages import Hello
from mooring_service.adoption import unseen
from mooring_service.directory import Directory
from mooring_service.processes.slot import Slot
from mooring_service.reopening import Reopenings

PIECE = 500  # connections that are read in one step of the loop

log = logging.getLogger("mooring.service")


class Hellos:
    """The hello of each process."""

    def __init__(self, directory: Directory, reopenings: Reopenings, background: Background) -> None:
        self._directory = directory
        self._reopenings = reopenings
        self._background = background
        self._unseen: dict[str, frozenset[int]] = {}  # by incarnation: what its last hello did not know of
        self._learning: dict[str, asyncio.Task[None]] = {}  # by incarnation

    def take(self, slot: Slot, hello: Hello, live: Iterable[int]) -> None:
        """Note which of `live`, the connections of the process that have not ended, a hello does not know of, and learn the rest.

        Raises:
            LinkError: If it cannot be understood.
        """
        try:
            named = [held.id_of(packed) for packed in hello.connections]
        except msgspec.MsgspecError as exc:
            raise LinkError(f"the link cannot be understood: {exc}") from None
        self._unseen[slot.incarnation] = unseen(live, named, slot.dispatched)
        self.learn(slot, hello)

    def learn(self, slot: Slot, hello: Hello) -> None:
        """Learn what a hello says of each connection."""
        self._learning[slot.incarnation] = self._background.spawn(self._learn(slot, hello))

    async def _learn(self, slot: Slot, hello: Hello) -> None:
        for count, packed in enumerate(hello.connections, 1):
            try:
                one = held.read(packed)
            except msgspec.MsgspecError as exc:  # user code shares the process that reports
                log.warning("worker %s says what cannot be understood: %s", slot.name, exc, extra=slot.tags)
                continue
            self._reopenings.learn(one)
            self._directory.figures(one.update)
            if not count % PIECE:
                await asyncio.sleep(0)

    async def unseen(self, incarnation: str) -> frozenset[int]:
        """Return, once, what the last hello of a process did not know of; what it did is learned then."""
        learning = self._learning.pop(incarnation, None)
        if learning is not None:
            await asyncio.wait({learning})
        return self._unseen.pop(incarnation, frozenset())
