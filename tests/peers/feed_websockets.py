"""A numbered feed on Python's ``websockets``: ``feed_websockets.py PORT RATE``. Says how many sockets it has at each change."""

from __future__ import annotations

import asyncio
import signal
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def main(port: int, rate: float) -> None:
    sockets = 0

    async def feed(socket: ServerConnection) -> None:
        nonlocal sockets
        sockets += 1
        print("sockets", sockets, flush=True)
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
            sockets -= 1
            print("sockets", sockets, flush=True)

    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with serve(feed, "127.0.0.1", port):
        await told.wait()


asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
