"""What a user would write with FastAPI and websockets: one process, a queue per SSE subscriber, no journal."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
import websockets
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


class Connection:
    def __init__(self, number: int, client: Any) -> None:
        self.number = number
        self.client = client
        self.subscribers: set[asyncio.Queue[bytes]] = set()
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        seq = 0
        async for data in self.client:
            seq += 1
            event = json.dumps({"connection": self.number, "seq": seq, "event": {"type": "message", "data": data}})
            block = f"id: {seq}\nevent: onMessage\ndata: {event}\n\n".encode()
            for queue in self.subscribers:
                queue.put_nowait(block)


app = FastAPI()
connections: dict[int, Connection] = {}
numbers = itertools.count(1)


@app.post("/v1/connections", status_code=201)
async def create(body: dict[str, str]) -> dict[str, int]:
    connection = Connection(next(numbers), await websockets.connect(body["url"], compression=None))
    connections[connection.number] = connection
    return {"id": connection.number}


@app.post("/v1/connections/{number}/messages")
async def send(number: int, request: Request) -> dict[str, int]:
    data = await request.body()
    await connections[number].client.send(data.decode())
    return {"sent": 1, "bytes": len(data)}


def stream(sources: list[Connection]) -> StreamingResponse:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    for source in sources:
        source.subscribers.add(queue)

    async def blocks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield await queue.get()
        finally:
            for source in sources:
                source.subscribers.discard(queue)

    return StreamingResponse(blocks(), media_type="text/event-stream")


@app.get("/v1/connections/{number}/events")
async def events_of(number: int) -> StreamingResponse:
    return stream([connections[number]])


@app.get("/v1/events")
async def events() -> StreamingResponse:
    return stream(list(connections.values()))


if __name__ == "__main__":
    sock = socket.socket()
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, loop="uvloop")).run(sockets=[sock])
