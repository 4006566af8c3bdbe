"""One socket against a peer on the loopback that breaks off, stops reading, or says nothing any more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire import socket as wire
from mooring.wire.dial import Dialled
from mooring.wire.frames import PING, TEXT
from mooring.wire.outbound import Outbound
from mooring.wire.socket import Socket, SocketState
from tests.conftest import wait_for
from tests.servers import frame

DEADLINE_S = 5.0


class Owner:
    """Writes down what its socket reports, in order."""

    def __init__(self) -> None:
        self.reports: list[tuple[object, ...]] = []
        self.lost = asyncio.Event()

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        self.reports += [("message", payload) for _, payload in items]

    def may_read(self) -> bool:
        return True

    def reading_paused(self) -> None:
        raise AssertionError("there is always room")

    def round_trip(self, round_trip_us: int) -> None:
        self.reports.append(("round trip",))

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        self.reports.append(("failed", err_code, close_code))

    def closed(self, code: int, reason: str, *, was_clean: bool) -> None:
        self.reports.append(("closed", code, was_clean))

    def gone(self, socket: Socket) -> None:
        self.reports.append(("gone",))
        self.lost.set()

    def written(self, ticket: object, count: int, size: int) -> None:
        self.reports.append(("written", ticket))

    def unwritten(self, ticket: object, size: int, *, stalled: bool) -> None:
        self.reports.append(("unwritten", ticket, stalled))


@asynccontextmanager
async def connected(**options: float) -> AsyncIterator[tuple[Socket, Owner, socket.socket]]:
    """A started socket, its owner, and the peer's end."""
    loop = asyncio.get_running_loop()
    owner = Owner()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        peer, _ = listener.accept()
    peer.setblocking(False)
    made = Socket(
        owner,
        owner,
        loop,
        Dialled(transport, b"", None, None),
        ConnectionOptions(url="ws://x/", **options),
        1_000,
    )
    made.start(b"")
    try:
        yield made, owner, peer
    finally:
        made.abort("the test has ended")
        await asyncio.wait_for(owner.lost.wait(), DEADLINE_S)
        peer.close()


async def fill(outbound: Outbound) -> None:
    """Write until the peer's end takes no more."""
    while outbound.write_now(TEXT, [b"x" * 65_536]):
        await asyncio.sleep(0)


@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
async def test_a_peer_that_does_not_read_and_half_closes_is_let_go_at_once(closing: bool) -> None:
    async with connected(close_timeout_s=60, ping_interval_s=0) as (made, owner, peer):
        await fill(made.outbound)
        made.outbound.queue("waits", TEXT, [b"one"], 3)
        if closing:
            made.close(1000, "")
        peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(owner.lost.wait(), DEADLINE_S)
        failed = [] if closing else [("failed", ErrCode.CONNECTION_LOST, None)]
        assert owner.reports == [*failed, ("closed", 1006, False), ("unwritten", "waits", False), ("gone",)]
        async with asyncio.timeout(DEADLINE_S):
            while await asyncio.get_running_loop().sock_recv(peer, 65_536):
                pass  # what had left before; then the end of TCP: no descriptor is kept


async def test_a_peer_that_closes_and_does_not_read_the_answer_is_let_go_after_the_lingering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    async with connected() as (made, owner, peer):
        await fill(made.outbound)
        peer.send(frame(8, b"\x03\xe8"))
        peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(owner.lost.wait(), DEADLINE_S)
        assert owner.reports == [("closed", 1000, True), ("gone",)]


async def test_after_the_end_its_owner_hears_nothing_but_that_it_is_gone() -> None:
    async with connected() as (made, owner, peer):
        peer.send(frame(1, b"one") + frame(8, b"\x03\xe8") + frame(1, b"late"))
        await wait_for(lambda: made.state is SocketState.CLOSED)
        peer.send(frame(1, b"later") + frame(3, b"not a frame"))
        peer.close()
        await asyncio.wait_for(owner.lost.wait(), DEADLINE_S)
        made.abort("too late")
        assert owner.reports == [("message", b"one"), ("closed", 1000, True), ("gone",)]


async def test_pings_between_messages_are_answered_and_are_no_messages() -> None:
    async with connected() as (_, owner, peer):
        peer.send(frame(1, b"one") + frame(PING, b"?") + frame(1, b"two") + frame(10, b"unasked") + frame(1, b"three"))
        await wait_for(lambda: len(owner.reports) == 3)
        assert owner.reports == [("message", b"one"), ("message", b"two"), ("message", b"three")]
        pong = await asyncio.get_running_loop().sock_recv(peer, 100)
        assert (pong[0], len(pong)) == (0x8A, 7)


async def test_what_waits_is_given_up_at_its_deadline_and_written_once_the_peer_reads() -> None:
    loop = asyncio.get_running_loop()
    async with connected() as (made, owner, peer):
        await fill(made.outbound)
        made.outbound.queue("impatient", TEXT, [b"one"], 3, 0.05)
        made.outbound.queue("patient", TEXT, [b"two"], 3, 60)
        assert not made.outbound.has_room(1_000)
        await wait_for(lambda: owner.reports == [("unwritten", "impatient", True)])
        while ("written", "patient") not in owner.reports:
            await loop.sock_recv(peer, 65_536)
        assert owner.reports == [("unwritten", "impatient", True), ("written", "patient")]
        assert made.outbound.queued_bytes == 0


@pytest.mark.parametrize("is_over", [False, True], ids=["closing", "closed"])
@pytest.mark.parametrize(
    ("more", "end"),
    [
        (b"", [("failed", ErrCode.CONNECTION_LOST, None), ("closed", 1006, False)]),
        (frame(8, b"\x03\xe8"), [("closed", 1000, True)]),
    ],
    ids=["cut", "closed in order"],
)
async def test_what_came_with_the_101_is_delivered_before_the_end_that_came_with_it(
    is_over: bool, more: bytes, end: list[tuple[object, ...]]
) -> None:
    loop = asyncio.get_running_loop()
    owner = Owner()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        peer.setblocking(False)
        transport.close()
        if is_over:
            while await loop.sock_recv(peer, 1):
                pass
        made = Socket(owner, owner, loop, Dialled(transport, b"", None, None), ConnectionOptions(url="ws://x/"), 1_000)
        made.start(frame(1, b"one") + more)
        if not is_over:
            while await loop.sock_recv(peer, 1):
                pass
        assert owner.reports == [("message", b"one"), *end, ("gone",)], "each once"
