"""How a worker runs down: the order in which it lets go of callbacks, sockets, threads and tasks, with the deadlines."""

from __future__ import annotations

import asyncio
import contextlib

from mooring.connection.state import ConnectionState
from mooring.process.runtime import Runtime

POLL_S = 0.01  # nobody tells each of thousands of ends, which come within a moment
LEFTOVER_S = 1.0  # for the tasks and executor threads that user code has left behind when its last item has run
STOPPED_CODE = 1001  # "going away" (RFC 6455 section 7.4.1)


async def run_down(runtime: Runtime, reason: str, grace_s: float) -> None:
    """Run down: the running item ends, what is pending is discarded, connections close with 1001, each runs its
    ``onTerminate``; then the context's thread ends. It may take as long as the running item does, but waits no
    longer than a second for tasks and threads that user code has left behind.
    """
    loop, context, thread = runtime.loop, runtime.context, runtime.context.thread
    runtime.stopping = True
    context.discard()
    held = list(runtime.connections.values())
    runtime.closed_by_stop = sum(connection.state is not ConnectionState.CLOSED for connection in held)
    for connection in held:
        connection.stop(STOPPED_CODE, reason)
    deadline = loop.time() + grace_s
    while loop.time() < deadline and any(
        connection.state is not ConnectionState.CLOSED for connection in runtime.connections.values()
    ):
        await asyncio.sleep(POLL_S)
    for connection in list(runtime.connections.values()):
        connection.abandon(reason)
    context.finish()
    runtime.room.close()
    await thread.emptied.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEFTOVER_S):
            await thread.ended.wait()
    await runtime.close()
