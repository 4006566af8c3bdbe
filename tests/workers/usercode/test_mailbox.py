"""Who waits for room in the mailbox is told once there is some, and nobody looks at all of them for each item."""

from __future__ import annotations

import asyncio
import threading
import time

from mooring.options import ConnectionRequest
from mooring.usercode.mailbox import Mailbox, Task
from tests.conftest import wait_for
from tests.servers import EchoServer
from tests.workers.bare_worker import Service, bare_worker

PAUSED = 5_000
ITEMS = 2_000


class Paused:
    """Stands for a connection that has stopped reading, and waits for more than this mailbox; counts the looks at all."""

    looks = 0

    def resume_if_room(self) -> None:
        Paused.looks += 1


async def test_nobody_looks_at_all_paused_connections_for_each_item() -> None:
    Paused.looks = 0
    async with bare_worker(Service(), mailbox_items=ITEMS // 2) as runtime:
        begin, done = threading.Event(), threading.Event()
        runtime.context.post_task("first", lambda: begin.wait(60) and None)
        for _ in range(ITEMS):
            runtime.context.post_task("item", lambda: time.sleep(0.0002))  # the I/O loop has its turn meanwhile
        runtime.context.post_task("last", done.set)
        runtime.paused.update(Paused() for _ in range(PAUSED))
        assert runtime.mailbox.full
        begin.set()
        assert await asyncio.to_thread(done.wait, 60)
        await wait_for(lambda: Paused.looks)
        assert Paused.looks == PAUSED, "once, when half of the mailbox was empty"


async def test_every_connection_goes_on_reading_when_the_mailbox_has_room_again(echo: EchoServer) -> None:
    got: dict[int, list[int]] = {}

    class Handler:
        def on_message(self, ws, event) -> None:
            got.setdefault(ws.id, []).append(int(event.data))

    async with bare_worker(Service(), mailbox_items=7, inbound_messages=5) as runtime:
        runtime.grant_ids(1, 256)
        request = ConnectionRequest(url=f"{echo.url}push?count=300")
        handlers = [Handler() for _ in range(10)]
        await asyncio.gather(*(asyncio.to_thread(runtime.open, request, handler) for handler in handlers))
        await wait_for(lambda: len(got) == 10 and {len(found) for found in got.values()} == {300})
        assert runtime.metrics.pauses > 10
    assert all(found == list(range(1, 301)) for found in got.values())


def test_a_mailbox_that_was_full_says_once_that_half_of_it_is_empty() -> None:
    mailbox = Mailbox(10, 1_000, lambda: None)
    for _ in range(9):
        mailbox.post_task(Task("item", lambda: None))
    assert not mailbox.full
    mailbox.taken += 9
    assert not mailbox.has_room_again(), "nobody has found it full"
    for _ in range(10):
        mailbox.post_task(Task("item", lambda: None))
    assert mailbox.full
    mailbox.taken += 4
    assert not mailbox.has_room_again()
    mailbox.taken += 1
    assert mailbox.has_room_again()
    assert not mailbox.has_room_again()
