"""Until when a worker of a cluster's node may hold its connections: past it, others may have opened them. Leaf.

The clock is CLOCK_BOOTTIME, one for all processes of the machine, which a suspended machine does not stop.
"""

from __future__ import annotations

import asyncio
import time

from mooring.deadline import PASS_S

LOOK_S = 0.5  # a machine that was suspended fires timers late

LAPSED = "nobody says any more that what it holds is still this node's"


class Lease:
    """What the service has said last. Without a cluster it says nothing, and nothing lapses."""

    def __init__(self) -> None:
        self._until = 0.0
        self._said = asyncio.Event()

    def extend(self, until: float) -> None:
        """Go on until then; 0.0: as was said before."""
        if until:
            self._until = until
            self._said.set()

    def _left_s(self) -> float:
        return self._until - time.clock_gettime(time.CLOCK_BOOTTIME)

    async def lapsed(self) -> None:
        """Wait until it is over. What had come by then was read: if it was we who stood still, the service may have gone on."""
        await self._said.wait()
        while True:
            while (left_s := self._left_s()) > 0:
                await asyncio.sleep(min(left_s, LOOK_S))
            await asyncio.sleep(PASS_S)
            if self._left_s() <= 0:
                return
