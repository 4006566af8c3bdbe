"""One socket in a process of its own, which makes itself stand still (SIGSTOP) for `test_socket.py`, and what becomes of it.

``python -m tests.workers.wire.standing_still PORT CASE PLACE`` prints "ready" with the number of bytes that the kernel has taken, and stands
still: in a callback of its loop, or while that waits for sockets and timers. Or it prints "late": the machine was away before all that. Once it
goes on it prints, as JSON, what its socket has reported first. Its loop is that of a worker: when it goes on, what waits in the sockets and
what the timers say is looked at in the order of libuv.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

import uvloop

from mooring.wire.frames import TEXT
from tests.workers.wire.sockets import DEADLINE_S, Owner, fill, made_of

TIMEOUT_S = 0.5  # of each case; it stands still for longer


async def main(port: int, case: str, place: str) -> None:
    loop = asyncio.get_running_loop()
    owner = Owner()
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    made = made_of(transport, owner, ping_interval_s=0, close_timeout_s=TIMEOUT_S)
    made.start(b"")
    if case == "send":
        await fill(made.outbound)
    began = time.monotonic()
    if case == "send":
        made.outbound.queue("waits", TEXT, [b"one"], 3, TIMEOUT_S)
    else:
        made.close(1000, "")
    await asyncio.sleep(0.02)  # what was written has left

    def stand_still() -> None:
        if time.monotonic() - began > TIMEOUT_S / 2:
            print("late", flush=True)
            return
        print("ready", made.outbound.written_bytes - made.outbound.unflushed, flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

    if place == "callback":
        stand_still()
    else:
        await loop.run_in_executor(None, stand_still)
    async with asyncio.timeout(DEADLINE_S):
        while not owner.reports:
            await asyncio.sleep(0.01)
    print(json.dumps(owner.reports[0]), flush=True)
    made.abort("that was all")
    await owner.lost.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
