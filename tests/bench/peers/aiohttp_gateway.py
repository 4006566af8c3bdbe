"""What a user would write with aiohttp: one process, a queue per SSE subscriber, no journal.

With the argument ``batched`` it does what few think of: all that waits leaves in one write.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys

import aiohttp
import uvloop
from aiohttp import web


class Connection:
    def __init__(self, number: int, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.number = number
        self.socket = socket
        self.subscribers: set[asyncio.Queue[bytes]] = set()
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        number, seq = self.number, 0
        async for message in self.socket:
            seq += 1
            event = json.dumps({"connection": number, "seq": seq, "event": {"type": "message", "data": message.data}})
            block = b"id: %d\nevent: onMessage\ndata: %b\n\n" % (seq, event.encode())
            for queue in self.subscribers:
                queue.put_nowait(block)


BATCHED = "batched" in sys.argv

connections: dict[int, Connection] = {}
numbers = itertools.count(1)
session: aiohttp.ClientSession


async def create(request: web.Request) -> web.Response:
    body = await request.json()
    socket = await session.ws_connect(body["url"])
    connection = Connection(next(numbers), socket)
    connections[connection.number] = connection
    return web.json_response({"id": connection.number}, status=201)


async def terminate(request: web.Request) -> web.Response:
    connection = connections.pop(int(request.match_info["id"]))
    await connection.socket.close()
    return web.json_response({"id": connection.number, "code": connection.socket.close_code})


async def send(request: web.Request) -> web.Response:
    connection = connections[int(request.match_info["id"])]
    data = await request.read()
    await connection.socket.send_str(data.decode())
    return web.json_response({"sent": 1, "bytes": len(data)})


async def events(request: web.Request) -> web.StreamResponse:
    wanted = request.match_info.get("id")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    sources = list(connections.values()) if wanted is None else [connections[int(wanted)]]
    for source in sources:
        source.subscribers.add(queue)
    try:
        while True:
            blocks = [await queue.get()]
            while BATCHED and not queue.empty():
                blocks.append(queue.get_nowait())
            await response.write(b"".join(blocks))
    finally:
        for source in sources:
            source.subscribers.discard(queue)


async def bare(request: web.Request) -> web.Response:
    """No gateway at all: what a POST costs by itself."""
    data = await request.read()
    return web.json_response({"sent": 1, "bytes": len(data)})


async def main(port: int) -> None:
    global session
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/connections", create),
            web.delete("/v1/connections/{id}", terminate),
            web.post("/v1/connections/{id}/messages", send),
            web.get("/v1/connections/{id}/events", events),
            web.get("/v1/events", events),
            web.post("/bare", bare),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
