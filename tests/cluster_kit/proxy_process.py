"""The process of `proxy.Proxies`: forwards TCP, and on command holds back, loses, cuts, waits for a moment, or keeps one message for a while.
One command a line on stdin, one answer on stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys


class Trap:
    """Becomes a black hole, on all ways of a node, at the moment at which it publishes something that contains `marker`.

    With `passes` that message still goes through, and nothing behind it in either direction; else it is the first that does not.
    """

    def __init__(self, ways: list[Proxy]) -> None:
        self.ways = ways
        self.marker: bytes | None = None
        self.passes = False
        self.sprung = False
        self.keeps: bytes | None = None
        self.kept: list[tuple[asyncio.StreamWriter, bytes]] = []

    def arm(self, marker: bytes | None, passes: bool) -> None:
        self.marker, self.passes, self.sprung = marker, passes, False

    def keep_one(self, marker: bytes) -> None:
        self.keeps, self.sprung = marker, False

    def release(self) -> None:
        for sink, frame in self.kept:
            sink.write(frame)
        self.kept.clear()

    def takes(self, frame: bytes, sink: asyncio.StreamWriter) -> bool:
        """Say whether a frame does not go on: it is kept, everything else passes."""
        if self.keeps is None or not frame.startswith((b"PUB ", b"HPUB ")) or self.keeps not in frame:
            return False
        self.keeps, self.sprung = None, True
        self.kept.append((sink, frame))
        return True

    def meets(self, frame: bytes) -> bool:
        """Take what a node says next; return whether it may go through."""
        if self.marker is None or not frame.startswith(b"HPUB ") or self.marker not in frame:
            return False
        self.marker, self.sprung = None, True
        for way in self.ways:
            way.set("hole")
        return self.passes


class Frames:
    """Parts what is said between a client and the engine into whole lines, and messages with what they bear."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def take(self, data: bytes) -> list[bytes]:
        self._rest += data
        found = []
        while (end := self._rest.find(b"\r\n")) >= 0:
            words, size = self._rest[:end].split(), end + 2
            if words and words[0] in (b"PUB", b"HPUB", b"MSG", b"HMSG"):
                size += int(words[-1]) + 2
            if len(self._rest) < size:
                break
            found.append(bytes(self._rest[:size]))
            del self._rest[:size]
        return found


class Proxy:
    """One way to one server. `mode`: pass; hole (nothing is read, in neither direction); deaf (what the server says is lost); commands (only what
    nodes ask of each other goes through: what this one publishes in the log, and is told of it, is lost).
    """

    def __init__(self, target: int, trap: Trap) -> None:
        self.target = target
        self.trap = trap
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
        await asyncio.gather(self._up(reader, up_writer), self._down(up_reader, writer))

    async def _up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        frames = Frames()
        try:
            while data := await source.read(65536):
                for frame in frames.take(data):
                    if self.trap.takes(frame, sink) or (self.mode == "commands" and _is_of_the_log(frame)):
                        continue
                    if not self.trap.meets(frame):
                        await self.open.wait()
                    if sink.is_closing():  # cut: nobody is there to take the others
                        return
                    sink.write(frame)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
            self.writers.discard(sink)

    async def _down(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        frames = Frames()
        try:
            while data := await source.read(65536):
                await self.open.wait()
                for frame in frames.take(data):
                    if self.mode == "deaf" or (self.mode == "commands" and _is_answer(frame)):
                        continue
                    if sink.is_closing():
                        return
                    sink.write(frame)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
            self.writers.discard(sink)


def _is_of_the_log(frame: bytes) -> bool:
    subject = frame.split(maxsplit=2)[1] if frame.startswith((b"PUB ", b"HPUB ")) else b""
    return subject.startswith(b"$JS.") or b".log." in subject


def _is_answer(frame: bytes) -> bool:
    return frame.startswith((b"MSG _INBOX", b"HMSG _INBOX"))


async def main() -> None:
    ways: list[Proxy] = []
    trap = Trap(ways)
    ways += [Proxy(int(port), trap) for port in sys.argv[1:]]
    print(json.dumps([await way.start() for way in ways]), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        match json.loads(line):
            case "cut":
                for way in ways:
                    way.cut()
            case ["trap", marker, passes]:
                trap.arm(bytes.fromhex(marker), passes)
            case ["keep", marker]:
                trap.keep_one(bytes.fromhex(marker))
            case "release":
                trap.release()
            case mode if mode != "sprung":
                trap.arm(None, False)
                for way in ways:
                    way.set(mode)
        print(json.dumps(trap.sprung), flush=True)
    os._exit(0)  # whatever is open ends with the process, which is meant; the interpreter would tell of each


asyncio.run(main())
