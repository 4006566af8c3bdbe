"""Both ends of a dial, for the tests of the wire: servers' scripts, a client that speaks, and a dialler that is closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mooring.dial_options import DialSettings
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialled, Dialler
from mooring.wire.egress import EgressPolicy
from mooring.wire.frames import CLOSE, PING, PONG, TEXT, FrameParser, close_payload, encode_frame
from tests.conftest import wait_for
from tests.servers import RawConnection, frame

Script = Callable[[RawConnection], Awaitable[None]]
SERVER_FIRST = b"before you ask"


@asynccontextmanager
async def a_dialler(policy: EgressPolicy | None = None, **more: Any) -> AsyncIterator[Dialler]:
    dialler = Dialler(policy or EgressPolicy(), **more)
    try:
        yield dialler
    finally:
        await dialler.close()


async def dial(url: str, *, settings: DialSettings | None = None, **options: Any) -> Dialled:
    async with a_dialler(settings=settings) as dialler:
        return await dial_with(dialler, url, **options)


def dial_with(dialler: Dialler, url: str, **options: Any) -> Awaitable[Dialled]:
    """Dial; it has a minute unless the test says otherwise."""
    return dialler.dial(ConnectionOptions(url=url, **{"connect_timeout_s": 60, **options}))


async def failure(attempt: Awaitable[Dialled]) -> DialFailed:
    """Return why a dial failed; it must."""
    with pytest.raises(DialFailed) as failed:
        (await attempt).transport.abort()
    return failed.value


async def accepts(connection: RawConnection) -> None:
    await connection.accept()
    await connection.reader.read()


async def is_silent(connection: RawConnection) -> None:
    await connection.reader.read()


async def echo(connection: RawConnection) -> None:
    """Says something first, in the packet of the 101; then echoes."""
    await connection.accept(after=frame(TEXT, SERVER_FIRST))
    while True:
        opcode, payload = await connection.read_frame()
        connection.writer.write(frame(PONG if opcode == PING else opcode, payload))
        if opcode == CLOSE:
            return


class Talk(asyncio.Protocol):
    """A WebSocket client on what a dial has made."""

    def __init__(self, dialled: Dialled) -> None:
        self.transport = dialled.transport
        self.parser = FrameParser(2**20, None)
        self.messages: list[bytes] = []
        self.ends = 0
        dialled.transport.set_protocol(self)
        self.data_received(dialled.tail)
        dialled.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.messages += [payload for opcode, payload in self.parser.feed(data) if opcode == TEXT]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends += 1

    def send(self, opcode: int, payload: bytes) -> None:
        self.transport.write(encode_frame(opcode, payload, os.urandom(4)))


async def holds_a_conversation(dialled: Dialled, count: int) -> None:
    """Send and get back `count` messages, and close: every byte in order, the server's first one once."""
    talk = Talk(dialled)
    sent = [b"message %d" % number for number in range(count)]
    for message in sent:
        talk.send(TEXT, message)
    await wait_for(lambda: len(talk.messages) > count or talk.ends)
    assert talk.messages == [SERVER_FIRST, *sent]
    talk.send(CLOSE, close_payload(1000))
    await wait_for(lambda: talk.parser.peer_close is not None or talk.ends)
    assert talk.parser.peer_close == (1000, "")
    talk.transport.abort()
    await wait_for(lambda: talk.ends)
    assert talk.ends == 1


def stood_still(seconds: float) -> None:
    """Have the clock of the running loop (asyncio's) say that nothing has run for so long; what is due by then is due at once."""
    loop = asyncio.get_running_loop()
    real = loop.time
    loop.time = lambda: real() + seconds  # type: ignore[method-assign]


def bears_failing_tls_in_tls() -> bool:
    """Whether this loop can end TLS in TLS that fails; asyncio's own raises a TypeError in 3.11 (workers run on uvloop)."""
    return "uvloop" in type(asyncio.get_running_loop()).__module__
