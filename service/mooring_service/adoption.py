"""What a worker that says hello does not know of. Pure.

The answer is a value, taken when the hello arrives: what is opened a moment later is not in the hello either, and lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Set


def unseen(live: Iterable[int], hello: Iterable[int], dispatched: Set[int]) -> frozenset[int]:
    """Return the connections that never reached a process, or that it had ended before it said hello.

    Of the latter it sends the end again: only what is still live once it has sent everything was never dialled.

    Args:
        live: Connections of this process that have not ended, by the directory.
        hello: Those that its `Hello` names.
        dispatched: Those that are on their way to it: no hello can know of them yet.
    """
    return frozenset(live).difference(hello, dispatched)
