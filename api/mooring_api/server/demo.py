"""``mooring serve --demo``: an echo server, something to connect to, and the words that say what to type next."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

DEMO_PORT = 8481


async def _echo(request: web.Request) -> web.StreamResponse:
    websocket = web.WebSocketResponse(max_msg_size=32 * 1024 * 1024)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


async def start_demo(port: int = DEMO_PORT) -> web.AppRunner:
    """Listen on 127.0.0.1; the caller cleans the runner up.

    Raises:
        OSError: If the port is taken.
    """
    app = web.Application()
    app.router.add_get("/{path:.*}", _echo)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def serve_demo(port: int) -> None:
    """Echo until cancelled: the demo's server as a program of its own.

    Raises:
        OSError: If the port is taken.
    """
    runner = await start_demo(port)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def demo_words(connection: int) -> str:
    """Return what to type next; `connection` is the id that the first command will get."""
    command = Path(sys.argv[0])
    try:
        mooring = str(command.relative_to(Path.cwd()))
    except ValueError:
        mooring = str(command)
    return f"""An echo server is at ws://127.0.0.1:{DEMO_PORT}/. In another terminal, type:

  {mooring} open ws://127.0.0.1:{DEMO_PORT}/
  {mooring} send {connection} 'Hello world'
  {mooring} tail {connection}
"""
