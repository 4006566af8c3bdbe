"""How long the writer, asleep, may be left in peace when more is known to follow what was queued. Of the event loop.

Who follows wakes the writer; only where nobody does, a timer has to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mooring_service.journal import pace


class Gathering:
    """The timer.

    Args:
        late: Called when nothing has followed in time.
    """

    def __init__(self, late: Callable[[], None]) -> None:
        self._late = late
        self._timer: asyncio.Handle | None = None

    def queued(self, *, more: bool) -> None:
        """Take that something was queued; `more` follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if more:
            self._timer = asyncio.get_running_loop().call_later(pace.GATHER_S, self._late)
