"""Which workers there are: by name, and by the incarnation of their process. It starts and ends none of them."""

from __future__ import annotations

import time

from mooring.errors import LimitReached, UnknownWorker
from mooring_service.processes.slot import Slot


class Roster:
    """All workers of one service.

    Attributes:
        max_workers: One more is refused; adopted ones always find a place.
        adopting: Names of workers of an earlier service whose process has neither said hello nor ended yet.
        adoption_s: How long their adoption took; None while it is under way.
    """

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        self._slots: dict[str, Slot] = {}
        self._by_incarnation: dict[str, Slot] = {}
        self._adoption_begin = 0.0
        self.adopting: set[str] = set()
        self.adoption_s: float | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, name: str) -> Slot:
        """Return the slot of worker `name`.

        Raises:
            UnknownWorker: If there is none.
        """
        try:
            return self._slots[name]
        except KeyError:
            raise UnknownWorker(name) from None

    def find(self, name: str) -> Slot | None:
        """Return the slot of worker `name`, or None."""
        return self._slots.get(name)

    def slots(self) -> list[Slot]:
        """Return all workers, by name."""
        return [self._slots[name] for name in sorted(self._slots)]

    def has_room(self, name: str) -> bool:
        """Say whether worker `name` is there, or may be."""
        return name in self._slots or len(self) < self.max_workers

    def check_room(self, name: str) -> None:
        """Check that worker `name` is there, or may be.

        Raises:
            LimitReached: If there are too many others.
        """
        if not self.has_room(name):
            raise LimitReached("limits.max_workers", self.max_workers)

    def by_incarnation(self, incarnation: str) -> Slot | None:
        """Return the worker whose process is `incarnation`."""
        return self._by_incarnation.get(incarnation)

    def add(self, slot: Slot) -> None:
        """There is one more worker."""
        self._slots[slot.name] = slot

    def begin_process(self, slot: Slot, incarnation: str) -> None:
        """`slot` has a process from now on, or is about to have one."""
        slot.incarnation = incarnation
        self._by_incarnation[incarnation] = slot
        slot.gone.clear()

    def end_process(self, slot: Slot) -> None:
        """The process of `slot` has ended, and all that it reported is taken."""
        self._by_incarnation.pop(slot.incarnation, None)

    def remove(self, slot: Slot) -> None:
        """`slot` has ended for good: its name is free."""
        self.end_process(slot)
        if self._slots.get(slot.name) is slot:
            del self._slots[slot.name]
        slot.gone.set()

    def begin_adoption(self, slots: list[Slot]) -> None:
        """`slots` are workers that an earlier service has left running."""
        self._adoption_begin = time.monotonic()
        self.adopting = {slot.name for slot in slots}
        if not slots:
            self.adoption_s = 0.0

    def end_adoption(self, slot: Slot) -> None:
        """The adoption of `slot` has ended, well or not; nothing if there was none."""
        if slot.name in self.adopting:
            self.adopting.discard(slot.name)
            if not self.adopting:
                self.adoption_s = time.monotonic() - self._adoption_begin

    async def until_all_gone(self) -> None:
        """Wait until no worker process is left, whether or not its end has been written down."""
        while left := [slot for slot in self.slots() if slot.process is not None]:
            await left[0].no_process.wait()
