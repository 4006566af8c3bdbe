"""One socket in a process of its own, which `test_socket.py` makes stand still (SIGSTOP), and what becomes of it.

``python -m tests.workers.wire.standing_still PORT CASE`` prints "ready", and then, as JSON, what its socket has reported. Its loop
is that of a worker: when it goes on, what waits in the sockets and what the timers say is looked at in the order of libuv.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from mooring.wire.frames import TEXT
from tests.workers.wire.sockets import DEADLINE_S, Owner, fill, made_of

TIMEOUT_S = 0.5  # of each case; it stands still for longer


async def main(port: int, case: str) -> None:
    owner = Owner()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
    made = made_of(transport, owner, ping_interval_s=0, close_timeout_s=TIMEOUT_S)
    made.start(b"")
    if case == "send":
        await fill(made.outbound)
        made.outbound.queue("waits", TEXT, [b"one"], 3, TIMEOUT_S)
    else:
        made.close(1000, "")
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    async with asyncio.timeout(DEADLINE_S):
        while not owner.reports:
            await asyncio.sleep(0.01)
    print(json.dumps(owner.reports[0]), flush=True)
    made.abort("that was all")
    await owner.lost.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
