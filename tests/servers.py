"""The other side: an echo server, a feed that numbers its messages, and a raw server that breaks every rule."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import WSMsgType, web

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """What the echo server saw of one connection."""

    def __init__(self, request: web.Request) -> None:
        self.headers = request.headers
        self.path_qs = request.path_qs
        self.raw_path = request.raw_path
        self.received: list[str | bytes] = []
        self.close_code: int | None = None
        self.ponged = False
        self.gone = asyncio.Event()


class _Listening:
    """A server on a port of its own, or on the one that one before it had."""

    app_routes: list[Any]
    host = "127.0.0.1"
    port = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        self.port = sock.getsockname()[1]
        await web.SockSite(self._runner, sock, backlog=1024).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError


class EchoServer(_Listening):
    """Echoes; paths make it behave otherwise (close, deny, held, push, silent, ping).

    Attributes:
        released: Whoever dials ``/held`` gets no 101 before it is set.
    """

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.handshakes = 0
        self.peers: list[Peer] = []
        self.sockets: list[web.WebSocketResponse] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        path = request.path
        self.handshakes += 1
        if path == "/deny":
            return web.Response(status=int(query["status"]))
        if path == "/slow":
            await asyncio.sleep(float(query["s"]))
        if path == "/held":
            await self.released.wait()
        websocket = web.WebSocketResponse(
            protocols=query.get("protocols", "").split(","), autoping=path != "/ping", max_msg_size=0
        )
        await websocket.prepare(request)
        peer = Peer(request)
        self.peers.append(peer)
        self.sockets.append(websocket)
        try:
            if path == "/close":
                await websocket.close(code=int(query["code"]), message=query.get("reason", "").encode())
            elif path == "/push":
                for number in range(1, int(query["count"]) + 1):
                    await websocket.send_str(str(number).ljust(int(query.get("size", "0")), "."))
                    if float(query.get("interval", "0")):
                        await asyncio.sleep(float(query["interval"]))
            elif path == "/binary":
                await websocket.send_bytes(bytes.fromhex(query["hex"]))
            elif path == "/text":
                await websocket.send_str(query["text"])
            elif path == "/ping":
                await websocket.ping(b"are you there")
                try:
                    async with asyncio.timeout(float(query["within"])):
                        while (message := await websocket.receive()).type is not WSMsgType.PONG:
                            pass
                    peer.ponged = True
                    await websocket.send_str("ponged")
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()
                    return websocket
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    peer.received.append(message.data)
                    if path != "/silent":
                        await websocket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    peer.received.append(message.data)
                    if path != "/silent":
                        await websocket.send_bytes(message.data)
        finally:
            peer.close_code = websocket.close_code
            peer.gone.set()
        return websocket


class FeedServer(_Listening):
    """Sends ``"1"``, ``"2"``, … on every connection; remembers how far it came and how each connection ended.

    Args:
        rate: Messages a second on each connection.
        size: Bytes of each message, at least.
    """

    def __init__(self, rate: float, size: int = 0, port: int = 0) -> None:
        self.port = port
        self.rate = rate
        self.size = size
        self.sent: dict[str, int] = {}
        self.ends: list[tuple[str, int | None]] = []
        self.stopped = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        name = request.path
        self.sent.setdefault(name, 0)
        reader = asyncio.create_task(self._read(websocket))
        loop = asyncio.get_running_loop()
        begin, base = loop.time(), 0
        try:
            while not reader.done() and not self.stopped.is_set():
                due = int((loop.time() - begin) * self.rate)
                while base < due and not reader.done():
                    self.sent[name] += 1
                    base += 1
                    await websocket.send_str(str(self.sent[name]).ljust(self.size, "."))
                await asyncio.sleep(0.005)
            await reader
        except ConnectionError:
            pass
        finally:
            reader.cancel()
            self.ends.append((name, websocket.close_code))
        return websocket

    async def _read(self, websocket: web.WebSocketResponse) -> None:
        async for _ in websocket:
            pass

    async def stop_sending(self) -> None:
        self.stopped.set()
        await asyncio.sleep(0.05)


class DeafServer(_Listening):
    """Reads nothing until `reads` is set; then everything goes to `received`."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.received: list[str | bytes] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(max_msg_size=2**26)
        await websocket.prepare(request)
        await self.reads.wait()
        async for message in websocket:
            self.received.append(message.data)
        return websocket


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """Build any frame, also an illegal one; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask is not None else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", size)
    if mask is not None:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        head += mask
    return head + payload


class RawConnection:
    """One TCP connection of the raw server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request_line = ""
        self.headers: dict[str, str] = {}
        self.frames: list[tuple[int, bytes]] = []

    async def read_request(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.request_line, *lines = head.split("\r\n")
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }

    def answer_101(
        self, *extra: str, after: bytes = b"", accept: str | None = None, upgrade: str = "websocket"
    ) -> bytes:
        accept = accept if accept is not None else accept_key(self.headers["sec-websocket-key"])
        lines = ["HTTP/1.1 101 Switching Protocols", f"Upgrade: {upgrade}", "Connection: Upgrade"]
        if accept:
            lines.append(f"Sec-WebSocket-Accept: {accept}")
        return ("\r\n".join([*lines, *extra]) + "\r\n\r\n").encode("latin-1") + after

    async def accept(self, *extra: str, after: bytes = b"") -> None:
        self.writer.write(self.answer_101(*extra, after=after))
        await self.writer.drain()

    async def read_frame(self) -> tuple[int, bytes]:
        b0, b1 = await self.reader.readexactly(2)
        size = b1 & 0x7F
        if size == 126:
            size = struct.unpack(">H", await self.reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", await self.reader.readexactly(8))[0]
        assert b1 & 0x80, "a client's frame must be masked"
        mask = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(size)
        found = (b0 & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))
        self.frames.append(found)
        return found

    async def read_close(self) -> tuple[int | None, str]:
        while True:
            opcode, payload = await self.read_frame()
            if opcode == 8:
                return (int.from_bytes(payload[:2], "big") if payload else None), payload[2:].decode()

    def reset(self) -> None:
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection so that the peer is told: behind what was written."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Script = Callable[[RawConnection], Awaitable[None]]


class RawServer:
    """Runs `script` on each TCP connection, after the request's head was read (unless `early`)."""

    def __init__(
        self,
        script: Script,
        *,
        early: bool = False,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._script = script
        self.port = port
        self._host = host
        self._early = early
        self._tls = tls
        self.connections: list[RawConnection] = []
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, self._host, self.port, ssl=self._tls, reuse_address=True, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.writer.transport.abort()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._tls else 'ws'}://{host}:{self.port}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = RawConnection(reader, writer)
        self.connections.append(connection)
        try:
            if not self._early:
                await connection.read_request()
            await self._script(connection)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as exc:  # noqa: BLE001 - shown by the test that looks
            self.errors.append(exc)
        finally:
            writer.close()


class Ledger:
    """Holds a subscriber's events against what was sent: no hole, no repeat, no reorder."""

    def __init__(self) -> None:
        self.seqs: dict[int, int] = {}
        self.numbers: dict[int, int] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.ids: set[str] = set()
        self.gaps = 0

    def take(self, event: dict[str, Any]) -> None:
        if event["kind"] == "gap":
            self.gaps += 1
            return
        assert event["id"] not in self.ids, f"repeated: {event['id']}"
        self.ids.add(event["id"])
        connection = event.get("connection")
        if connection is None:
            return
        assert connection not in self.ended or event["kind"] == "callbackError", f"after onTerminate: {event}"
        seq = self.seqs.get(connection, 0) + 1
        assert event["seq"] == seq, f"connection {connection}: seq {event['seq']}, expected {seq}"
        self.seqs[connection] = seq
        if event["kind"] == "onMessage":
            number = int(json.loads(json.dumps(event["event"]["data"])).rstrip("."))
            expected = self.numbers.get(connection, 0) + 1
            assert number == expected, f"connection {connection}: message {number}, expected {expected}"
            self.numbers[connection] = number
        elif event["kind"] == "onTerminate":
            self.ended[connection] = event["event"]
