"""Between two `Stored` under load the loop rests: it reads what has come to all sockets at one time, and never when somebody waits."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mooring.link import rest
from mooring.link.channel import Channel, frame
from mooring.link.messages import Events, Stored, command_decoder, report_decoder
from mooring.link.outbox import Outbox
from mooring.link.record import ConnectionCreated, ConnectionUpdate

SOCKETS = 20
LONG_US = 60_000_000  # a rest that only the link ends: no busy machine is late for that


class Recording:
    """A connection as the outbox sees it."""

    id_bytes = bytes(8)
    recorded_seq = 0

    def take_created(self) -> ConnectionCreated | None:
        return None

    def update(self) -> ConnectionUpdate | None:
        return None

    def mark_ended(self) -> None: ...


class Receiver:
    """A worker: records a byte of each of its sockets as an event."""

    def __init__(self, channel: Channel[Any]) -> None:
        self.outbox = Outbox(1 << 20, self._send, lambda: None)
        self.only_receives = True
        self.reads = 0
        self._channel = channel
        self._connection = Recording()

    def _send(self, data: bytes) -> bool:
        self._channel.send_frame(data)
        return True

    def read(self, sock: socket.socket) -> None:
        self.reads += 1
        self.outbox.add(self._connection, b"\x02", sock.recv(1), 1)
        self.outbox.flush_behind()


class Rig:
    """A worker's loop with its link and its sockets; the service and the peers are this thread."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        self._link, ours = socket.socketpair()
        self._link.settimeout(60)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ours)))
        self._thread.start()
        assert self._ready.wait(60)

    async def _run(self, ours: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.rest = rest.Rest()
        decoder = Channel(command_decoder, self._take, lambda channel, exc: None)
        await self.loop.create_unix_connection(lambda: decoder, sock=ours)
        self.receiver = Receiver(decoder)
        near = []
        for _ in range(SOCKETS):
            peer, sock = socket.socketpair()
            self.peers.append(peer)
            near.append(sock)
            self.loop.add_reader(sock, self.receiver.read, sock)
        self._ready.set()
        await self._over.wait()
        decoder.abort()
        for sock in near:
            self.loop.remove_reader(sock)
            sock.close()

    def _take(self, channel: Channel[Any], commands: list[Any]) -> None:
        for command in commands:
            self.rest.after(command, channel, self.receiver)

    def tell(self, number: int, next_us: int) -> None:
        """Say that all up to frame `number` is stored."""

        self._link.sendall(frame(Stored(number, 0, 0, next_us)))

    def events(self) -> Events:
        """Return the next frame."""
        size = int.from_bytes(self._link.recv(4, socket.MSG_WAITALL), "big")
        found = report_decoder.decode(self._link.recv(size, socket.MSG_WAITALL))
        assert isinstance(found, Events)
        return found

    def close(self) -> None:
        self._link.close()  # wakes a loop that rests
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
        for peer in self.peers:
            peer.close()


@contextmanager
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.close()


def _hears(made: Rig, within_s: float = 60) -> bool:
    """Say whether the loop does what is not of the link."""
    heard = threading.Event()
    made.loop.call_soon_threadsafe(heard.set)
    return heard.wait(within_s)


def _rests(made: Rig) -> bool:
    """Say whether the loop comes to rest: it may still be on its way there."""
    return any(not _hears(made, 0.3) for _ in range(1_000))


def test_what_comes_during_a_rest_is_read_at_one_time_and_leaves_as_one_frame() -> None:
    with rig() as made:
        made.peers[0].send(b"1")
        assert made.events().number == 1
        made.peers[0].send(b"2")
        made.tell(1, LONG_US)
        number = made.events().number  # what came before the rest has left before it
        for peer in made.peers:
            peer.send(b"3")
        assert _rests(made)
        reads = made.receiver.reads
        assert reads <= 2, "nothing of what came meanwhile was read"
        made.tell(number, 0)
        found = made.events()
        assert (found.number, len(found.kinds)) == (number + 1, SOCKETS)
        assert made.receiver.reads == reads + SOCKETS


def test_there_is_no_rest_where_nothing_is_on_its_way() -> None:
    with rig() as made:
        made.peers[0].send(b"1")
        made.events()
        made.tell(1, LONG_US)
        assert _hears(made)
        made.peers[1].send(b"2")
        assert made.events().number == 2


@pytest.mark.parametrize("why", ["more than receives", "was asked", "no rhythm"])
def test_nobody_rests_who_does_more_than_receive_or_was_asked_for_something(why: str) -> None:
    with rig() as made:
        made.receiver.only_receives = why != "more than receives"
        if why == "was asked":
            made.rest.asked()
            made.rest._asked_at += 60  # the machine may be busy
        made.peers[0].send(b"1")
        made.events()
        made.receiver.outbox.add(made.receiver._connection, b"\x02", b"2", 1)
        made.tell(1, 0 if why == "no rhythm" else LONG_US)
        assert made.events().number == 2
        assert _hears(made)


def test_a_rest_ends_with_its_time_when_the_service_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rested_s: list[float] = []

    def timed(self: rest.Rest, next_us: int, link: int, begin: Callable[..., None] = rest.Rest._rest) -> None:
        began = time.monotonic()
        begin(self, next_us, link)
        rested_s.append(time.monotonic() - began)

    monkeypatch.setattr(rest.Rest, "_rest", timed)
    with rig() as made:
        made.peers[0].send(b"1")
        made.events()
        made.receiver.outbox.add(made.receiver._connection, b"\x02", b"2", 1)
        made.tell(1, 500_000)
        made.events()
        for _ in range(10):  # passes of the loop: the rest begins in one of the first
            assert _hears(made), "by itself"
        (once,) = rested_s
        assert once >= 0.5
