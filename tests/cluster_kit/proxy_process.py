"""The process of `proxy.Proxies`: forwards TCP, and on command holds back, loses or cuts. One command a line on stdin, one answer on stdout."""

from __future__ import annotations

import asyncio
import json
import sys


class Proxy:
    """One way to one server. `mode`: pass; hole (nothing is read, in neither direction); deaf (what the server says is lost)."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode = "pass"
        self.open = asyncio.Event()
        self.open.set()
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.server = server
        return int(server.sockets[0].getsockname()[1])

    def set(self, mode: str) -> None:
        self.mode = mode
        (self.open.clear if mode == "hole" else self.open.set)()

    def cut(self) -> None:
        for writer in list(self.writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        await self.open.wait()
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.writers.add(up_writer)
        await asyncio.gather(self._pump(reader, up_writer, False), self._pump(up_reader, writer, True))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, down: bool) -> None:
        try:
            while data := await source.read(65536):
                await self.open.wait()
                if down and self.mode == "deaf":
                    continue
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
            self.writers.discard(sink)


async def main() -> None:
    proxies = [Proxy(int(port)) for port in sys.argv[1:]]
    print(json.dumps([await proxy.start() for proxy in proxies]), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        word = json.loads(line)
        for proxy in proxies:
            proxy.cut() if word == "cut" else proxy.set(word)
        print("null", flush=True)


asyncio.run(main())
