"""The gate in front of the HTTP protocol: whoever comes is counted at once, and nobody stays for ever. Under both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from aiohttp import web

from mooring_api.rest import gate
from mooring_api.rest.gate import Gate
from tests.certificates import Files, make_files
from tests.conftest import rounds, wait_for

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Run = Callable[[Coroutine[Any, Any, None]], None]
both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


class Gated:
    """An application behind a gate; `handler` answers everything."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], **options: Any) -> None:
        self.handler = handler
        self.options = {"max_connections": 5, "head_timeout_s": 10.0, **options}
        self.ended: list[str] = []

    async def __aenter__(self) -> Gated:
        self.sockets = sockets()
        app = web.Application()
        app.router.add_get("/", self.handler)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        assert self.runner.server is not None
        self.gate = Gate(self.runner.server, **self.options)
        self.listener = await asyncio.get_running_loop().create_server(self.gate, "127.0.0.1", 0)
        self.port: int = self.listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.listener.close()
        await self.gate.close()
        await self.runner.cleanup()
        await self.listener.wait_closed()
        await wait_for(lambda: sockets() <= self.sockets, what="no socket is left behind")

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, **options)


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def never(_: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits so long")


async def whole(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


def certificate(files: Files) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.server_cert, files.server_key)
    return tls


async def answers(gated: Gated, **options: Any) -> bool:
    try:
        reader, writer = await gated.connect(**options)
        writer.write(GET)
        found = await asyncio.wait_for(reader.read(100), 60)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return found.startswith(b"HTTP/1.1 200")


@both_loops
def test_a_handshake_that_is_only_begun_counts_from_its_accept_and_gives_its_place_back(run: Run, files: Files) -> None:
    trusting = ssl.create_default_context(cafile=files.ca)

    async def scenario() -> None:
        async with Gated(hello, tls=certificate(files), head_timeout_s=600.0) as gated:
            assert await answers(gated, ssl=trusting)
            await wait_for(lambda: gated.gate.open == 0)
            held = [await gated.connect() for _ in range(5)]
            held[0][1].write(b"\x16\x03\x01\x02\x00\x01\x00\x01")  # the beginning of a hello
            await wait_for(lambda: gated.gate.open == 5)
            further = [await gated.connect() for _ in range(20)]
            assert [await asyncio.wait_for(_end(reader), 60) for reader, _ in further] == [b""] * 20, "closed at once"
            assert gated.gate.open == 5
            held[1][1].close()
            await wait_for(lambda: gated.gate.open == 4, what="who goes away gives his place back at once")
            assert await answers(gated, ssl=trusting)
            for _, writer in (*held, *further):
                writer.close()
        async with Gated(hello, tls=certificate(files), head_timeout_s=0.5) as gated:
            held = [await gated.connect() for _ in range(5)]
            held[0][1].write(b"\x16\x03\x01\x02\x00\x01\x00\x01")
            assert [await asyncio.wait_for(_end(reader), 60) for reader, _ in held] == [b""] * 5
            await wait_for(lambda: gated.gate.open == 0, what="those that never go on are cut off")
            for _, writer in held:
                writer.close()

    run(scenario())


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@both_loops
@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_what_is_no_tls_is_closed_and_counted_no_more(run: Run, files: Files, first: bytes) -> None:
    async def scenario() -> None:
        async with Gated(hello, tls=certificate(files)) as gated:
            reader, writer = await gated.connect()
            writer.write(first)
            writer.write_eof()
            found = await asyncio.wait_for(_end(reader), 60)
            assert b"HTTP" not in found
            await wait_for(lambda: gated.gate.open == 0)
            writer.close()

    run(scenario())


@both_loops
@rounds(5, 200, "round_")
def test_a_request_in_one_packet_with_the_end_of_the_handshake_is_answered(run: Run, files: Files, round_: int) -> None:
    trusting = ssl.create_default_context(cafile=files.ca)

    async def scenario() -> None:
        async with Gated(hello, tls=certificate(files)) as gated:
            for _ in range(round_):
                assert b"hello" in await asyncio.to_thread(_ask_in_one_packet, gated.port, trusting)
            await wait_for(lambda: gated.gate.open == 0)

    run(scenario())


def _ask_in_one_packet(port: int, trusting: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(GET)
        sock.sendall(outgoing.read())  # our Finished, and the request behind it
        found = b""
        while b"hello" not in found:
            incoming.write(sock.recv(65536))
            try:
                found += tls.read(65536)
            except ssl.SSLWantReadError:
                continue
        return found


@both_loops
def test_the_end_ends_handshakes_too(run: Run, files: Files) -> None:
    async def scenario() -> None:
        async with Gated(hello, tls=certificate(files)) as gated:
            held = [await gated.connect() for _ in range(3)]
            await wait_for(lambda: gated.gate.open == 3)
            await gated.gate.close()
            assert [await asyncio.wait_for(_end(reader), 60) for reader, _ in held] == [b""] * 3
            await wait_for(lambda: gated.gate.open == 0)
            for _, writer in held:
                writer.close()

    run(scenario())


@both_loops
def test_whoever_closes_his_sending_side_is_answered_but_not_waited_for_for_ever(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(gate, "HALF_CLOSED_S", 3600)
        async with Gated(hello) as gated:
            reader, writer = await gated.connect()
            writer.write(GET * 3)
            writer.write_eof()
            assert (await asyncio.wait_for(reader.read(), 60)).count(b"hello") == 3
            writer.close()
        monkeypatch.setattr(gate, "HALF_CLOSED_S", 0.3)
        async with Gated(never) as gated:
            reader, writer = await gated.connect()
            writer.write(GET)
            await wait_for(lambda: gated.gate.open == 1)
            writer.close()  # gone altogether: it looks the same
            await wait_for(lambda: gated.gate.open == 0, 60)
        async with Gated(never, lasts=lambda _: True) as gated:
            monkeypatch.setattr(gate, "HALF_CLOSED_S", 3600)
            reader, writer = await gated.connect()
            writer.write(GET)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 60) == b"", "what never ends is ended at once"
            writer.close()

    run(scenario())


@both_loops
@pytest.mark.parametrize(
    "begun",
    [b"", GET[:-2], GET[:-2] + b"Content-Length: 8\r\n\r\nhalf"],
    ids=["nothing", "half a head", "half a body"],
)
def test_what_will_never_be_whole_is_ended_at_once(run: Run, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(gate, "HALF_CLOSED_S", 3600)

    async def scenario() -> None:
        async with Gated(whole, head_timeout_s=3600.0) as gated:
            reader, writer = await gated.connect()
            writer.write(begun)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()

    run(scenario())


@both_loops
def test_a_head_that_came_while_we_stood_still_is_answered(run: Run) -> None:
    async def scenario() -> None:
        async with Gated(hello, head_timeout_s=2.0) as gated:
            reader, writer = await gated.connect()
            await wait_for(lambda: gated.gate.open == 1)
            writer.write(GET)
            time.sleep(2.5)  # this is the standing still: a stopped process, a debugger
            assert (await asyncio.wait_for(reader.read(100), 60)).startswith(b"HTTP/1.1 200")
            writer.close()

    run(scenario())
