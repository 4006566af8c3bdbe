"""One socket against a peer on the loopback that breaks off, stops reading, or says nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import zlib

import pytest

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire import socket as wire
from mooring.wire.dial import Dialled
from mooring.wire.frames import PING, TEXT, Deflate
from mooring.wire.socket import Socket, SocketState
from tests.conftest import ROOT, rounds, wait_for
from tests.servers import frame
from tests.workers.wire import standing_still
from tests.workers.wire.sockets import DEADLINE_S, Owner, connected, fill


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


async def test_after_the_end_its_owner_hears_nothing_but_that_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 60)  # the peer is the one who closes
    async with connected() as (made, owner, peer):
        peer.send(frame(1, b"one") + frame(8, b"\x03\xe8") + frame(1, b"late"))
        await wait_for(lambda: made.state is SocketState.CLOSED)
        peer.send(frame(1, b"later") + frame(3, b"not a frame"))
        peer.close()
        await asyncio.wait_for(owner.lost.wait(), DEADLINE_S)
        made.abort("too late")
        assert owner.reports == [("message", b"one"), ("closed", 1000, True), ("gone",)]


class Narrow(Owner):
    """Takes two messages, then has no room until it is told that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 2
        self.paused = 0

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        super().messages(items)
        self.room -= len(items)

    def may_read(self) -> bool:
        return self.room > 0

    def reading_paused(self) -> None:
        self.paused += 1


async def test_a_read_that_inflates_to_much_is_handed_over_as_there_is_room_for_it() -> None:
    size, count = 1_000_000, 20
    owner = Narrow()
    packed = zlib.compress(b"x" * size, wbits=-15, level=9)
    data = frame(1, packed, rsv=4) * count + frame(8, b"\x03\xe8")
    assert len(data) < 65_536, "it is one read"
    async with connected(owner, deflate=Deflate(), max_message_bytes=size) as (made, _, _):
        tracemalloc.start()
        try:
            made.data_received(data)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(owner.reports) == 2 and owner.paused == 1 and not made.is_reading
        assert most < 6 * size
        for done in range(4, count + 2, 2):
            owner.room = 2
            made.resume_reading()
            assert len([report for report in owner.reports if report[0] == "message"]) == done
        assert owner.reports[-1] == ("message", b"x" * size), "the close frame waits behind what there is no room for"
        owner.room = 2
        made.resume_reading()
        assert owner.reports[-1] == ("closed", 1000, True)


async def test_a_close_of_ours_waits_for_nothing_that_is_only_to_be_inflated() -> None:
    owner = Narrow()
    packed = zlib.compress(b"x" * 1_000_000, wbits=-15, level=9)
    async with connected(owner, deflate=Deflate(), max_message_bytes=1_000_000) as (made, _, _):
        made.data_received(frame(1, packed, rsv=4) * 20 + frame(8, b"\x03\xe8"))
        made.close(1000, "")
        assert owner.reports[-1] == ("closed", 1000, True)
        assert len(owner.reports) == 3


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


@pytest.mark.parametrize(
    ("case", "report"), [("send", ["written", "waits"]), ("close", ["closed", 1000, True])], ids=["send", "close"]
)
@pytest.mark.parametrize("place", ["callback", "poll"])
@rounds(1, 10)
def test_nobody_is_judged_by_a_time_in_which_we_stood_still_before_what_has_come_is_read(
    case: str, report: list[object], place: str, rounds: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.settimeout(60)
        done = 0
        while done < rounds:
            found = _reported_after_standing_still(listener, case, place)
            assert found in (None, report)
            done += found is not None


def _reported_after_standing_still(listener: socket.socket, case: str, place: str) -> list[object] | None:
    """Return what the socket has reported first; None: the machine was away before it could be made to stand still."""
    port = str(listener.getsockname()[1])
    program = [sys.executable, "-m", "tests.workers.wire.standing_still", port, case, place]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(60)
            word, *taken = process.stdout.readline().split()
            if word == "ready":
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if case == "close":
                    peer.send(frame(8, b"\x03\xe8"))
                left = int(taken[0])
                while left > 0:
                    left -= len(peer.recv(left))
                time.sleep(standing_still.TIMEOUT_S)  # its time is over, and it does not know yet
                process.send_signal(signal.SIGCONT)
            with contextlib.suppress(ConnectionError):
                while peer.recv(1_000_000):
                    pass
            found: list[object] = json.loads(process.stdout.readline())
            return found if word == "ready" else None


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
