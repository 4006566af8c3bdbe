"""One socket, its owner, and the peer's end of it, for tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire.dial import Dialled
from mooring.wire.frames import TEXT, Deflate
from mooring.wire.outbound import Outbound
from mooring.wire.socket import Socket

DEADLINE_S = 60.0


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

    def waits(self) -> None:
        """What waits is told when it was written, or was not."""

    def written(self, ticket: object, count: int, size: int) -> None:
        self.reports.append(("written", ticket))

    def unwritten(self, ticket: object, size: int, *, stalled: bool) -> None:
        self.reports.append(("unwritten", ticket, stalled))


def made_of(transport: asyncio.Transport, owner: Owner, *, deflate: Deflate | None = None, **options: float) -> Socket:
    """Return a socket that is to be started."""
    return Socket(
        owner,
        owner,
        asyncio.get_running_loop(),
        Dialled(transport, b"", None, deflate),
        ConnectionOptions(url="ws://x/", **options),
        1_000,
    )


@asynccontextmanager
async def connected(
    owner: Owner | None = None, *, deflate: Deflate | None = None, **options: float
) -> AsyncIterator[tuple[Socket, Owner, socket.socket]]:
    """A started socket, its owner, and the peer's end."""
    loop = asyncio.get_running_loop()
    owner = owner or Owner()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        # Once the peer's end is full, the kernel takes nothing more of ours: it does not make its own room larger meanwhile.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer, _ = listener.accept()
    peer.setblocking(False)
    made = made_of(transport, owner, deflate=deflate, **options)
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
