"""How a worker runs down: the order in which it lets go of callbacks, sockets, threads and tasks, with the deadlines."""

from __future__ import annotations

import asyncio
import contextlib

from mooring.connection.live import Left
from mooring.connection.state import ConnectionState
from mooring.deadline import within
from mooring.process.runtime import Runtime

POLL_S = 0.01  # nobody tells each of thousands of ends, which come within a moment
LEFTOVER_S = 1.0  # for the tasks and executor threads that user code has left behind when its last item has run


async def run_down(runtime: Runtime, reason: str, grace_s: float, *, left: Left = "") -> None:
    """Run down: the running item ends, what is pending is discarded, connections close with 1001, each runs its
    ``onTerminate``; then the context's thread ends. It may take as long as the running item does, but waits no
    longer than a second for tasks and threads that user code has left behind.

    Args:
        left: Who follows, and opens kept connections again: they do not end.
    """
    loop, context, thread = runtime.loop, runtime.context, runtime.context.thread
    runtime.stopping, runtime.left = True, left
    context.discard()
    held = list(runtime.connections.values())
    runtime.closed_by_stop = sum(connection.state is not ConnectionState.CLOSED for connection in held)
    for connection in held:
        connection.let_go(reason, left=left)
    deadline = loop.time() + grace_s
    in_time = True
    while in_time and not all(connection.at_rest for connection in runtime.connections.values()):
        in_time = loop.time() < deadline
        await asyncio.sleep(POLL_S)  # also when it is too late: what has come while we stood still is read first
    for connection in list(runtime.connections.values()):
        connection.abandon(reason)
    context.finish()
    runtime.room.close()
    await thread.emptied.wait()
    with contextlib.suppress(TimeoutError):
        async with within(LEFTOVER_S):
            await thread.ended.wait()
    await runtime.close()
