"""A numbered feed on Python's ``websockets``: ``feed_websockets.py PORT RATE``. Says at each new socket how many are open."""

from __future__ import annotations

import asyncio
import signal
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State


async def main(port: int, rate: float) -> None:
    sockets: set[ServerConnection] = set()

    async def feed(socket: ServerConnection) -> None:
        sockets.add(socket)
        # By their state, not by who has noticed it: one that is closed is found out here only at the next message.
        print("sockets", sum(one.state is State.OPEN for one in sockets), flush=True)
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        try:
            while True:
                while number < (loop.time() - began) * rate:
                    number += 1
                    await socket.send(str(number))
                await asyncio.sleep(0.005)
        except ConnectionClosed:
            pass
        finally:
            sockets.discard(socket)

    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with serve(feed, "127.0.0.1", port):
        await told.wait()


asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
