"""What this room asks of whoever takes what workers report: the way up fulfils it."""

from __future__ import annotations

from typing import Protocol

from mooring.link.messages import Hello, Report
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_process import Exit

ID_BLOCK = 256  # connection ids are reserved by so many


class Reports(Protocol):
    """Who takes what workers report."""

    @property
    def bounds(self) -> tuple[int, int]:
        """What a worker may: `window_bytes` and `full_at` of its welcome."""

    def until(self, slot: Slot) -> float:
        """Until when a worker may hold its connections; see `Probe`."""

    def take(self, slot: Slot, reports: list[Report]) -> None:
        """Take the reports of one read, in order. Never `Hello`.

        Raises:
            LinkError: If one of them is none of ours.
        """

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids; return the first."""

    async def save_incarnation(self, slot: Slot, *, ended: bool = False, stands: bool = False) -> None:
        """Keep who the process is; or that it has ended, and its worker `stands`: it is to be started again, or has failed."""

    def hello(self, slot: Slot, hello: Hello) -> None:
        """A process has said hello, this moment; nothing that is open now and not in it can have reached it."""

    def worker_linked(self, slot: Slot, hello: Hello, *, fresh: bool) -> None:
        """A process that has said hello is welcomed next; `fresh`: it has not been Running before."""

    def worker_ending(self, slot: Slot) -> None:
        """A worker is told to end, this moment: what was asked of it and is not under way is discarded."""

    def worker_refused(self, slot: Slot, hello: Hello) -> None:
        """A process is of a version of the link that is not spoken here: it is told to end, and another one will follow."""

    async def worker_ended(self, slot: Slot) -> None:
        """There is no such worker any more, as was asked: no process of it will follow."""

    async def worker_gone(self, slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> int:
        """A process has ended: report what it could not, and mark it as ended, all at once; unless `asked`, its worker stands.

        Returns how many connections ended with it.
        """
