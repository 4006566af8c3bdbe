"""What a connection that stays costs more than one that does not, in the worker: queues, policies and specs are made when needed, or shared."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import msgspec
import pytest

from mooring.connection.asked import resolve, shown_of
from mooring.connection.connection import Connection
from mooring.connection.kept import KeptConnection
from mooring.connection.state import ConnectionState
from mooring.link.messages import LinkRequest
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionRequest
from tests.workers.connection.world import World

COUNT = 300


LOGS_IN: dict[str, Any] = {
    "recipe": {
        "opening": [
            {"send": {"type": "login", "token": "s"}, "expect": {"/type": "welcome"}, "fail": {"/type": "denied"}},
            {"send": {"type": "subscribe", "id": "${nextId}", "room": "a"}},
        ],
        "answers": [{"when": {"/type": "ping"}, "send": {"type": "pong"}, "hide": True}],
    },
    "keepAlive": {"send": "ping", "expect": "pong", "interval": 3600},
}


def _bytes_each(*, kept: bool, **more: Any) -> float:
    world = World()
    held: list[object] = []

    def open_one(number: int) -> None:
        url = "ws://a.test/" if more else f"ws://a.test/{number}"
        asked = msgspec.convert({"url": url, "reconnect": kept, "pingInterval": 0, **more}, ConnectionRequest)
        asked = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=LinkRequest)  # as it comes over the link
        options = resolve(asked)
        made_at_us = 1_700_000_000_000_000 + number
        created = ConnectionCreated.of(number, "w", None, made_at_us, options, asked=shown_of(options))
        connection = (
            KeptConnection(world, created, options, None, None, asked)  # type: ignore[arg-type]  # the host
            if kept
            else Connection(world, created, options, None)  # type: ignore[arg-type]
        )
        connection.dial(0)
        world.loop.advance()
        transport = world.dialler.dials.pop().accept()
        world.loop.advance()
        if more:
            transport.say('{"type": "welcome"}')
            world.loop.advance()
            transport.written = b""
        assert connection.state is ConnectionState.CONNECTED
        for told in (world.updates, world.created, world.events, world.seqs, world.answers):
            told.clear()  # type: ignore[attr-defined]
        held.append(connection)

    for number in range(1, 20):
        open_one(number)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(20, 20 + COUNT):
            open_one(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / COUNT
    finally:
        tracemalloc.stop()


def test_one_that_stays_costs_three_quarters_of_a_kibibyte_more() -> None:  # 45; the fourth is the service's
    more = _bytes_each(kept=True) - _bytes_each(kept=False)
    print(f"{more:.0f} bytes")
    assert more <= 768


def test_a_recipe_that_many_have_is_held_once() -> None:  # 45
    more = _bytes_each(kept=True, **LOGS_IN) - _bytes_each(kept=True)
    print(f"{more:.0f} bytes")
    assert more <= 3 * 1024, "what one socket knows of its opening, its answers and its clocks"


@pytest.mark.parametrize(("size", "count", "held_bytes"), [(10, 1_001, 1_001 * 512), (100_000, 11, 2**20 + 600_000)])
def test_what_comes_before_the_awaited_answer_takes_bounded_memory_and_none_once_the_opening_has_failed(
    size: int, count: int, held_bytes: int
) -> None:  # 20
    world = World()
    world.settings = msgspec.structs.replace(world.settings, inbound_messages=1_000, inbound_bytes=2**20)
    recipe = {"opening": [{"expect": "ok", "timeout": 300}]}
    reconnect = {"minDelay": 1, "maxDelay": 1, "first": "retry"}
    asked = msgspec.convert({"url": "ws://a.test/", "reconnect": reconnect, "recipe": recipe}, LinkRequest)
    options = resolve(asked)
    created = ConnectionCreated.of(1, "w", None, 1_700_000_000_000_000, options, asked=shown_of(options))
    connection = KeptConnection(world, created, options, None, None, asked)  # type: ignore[arg-type]  # the host
    connection.dial(0)

    def fail_an_opening() -> None:
        world.loop.advance(2)  # the delay before it
        transport = world.dialler.dials.pop().accept()
        world.loop.advance()
        before = world.metrics.opening_dropped
        for _ in range(2 * count):  # whatever the peer says, it is over with the first that is too much
            transport.say("n" * size)
            world.loop.advance()
        world.loop.advance()
        assert world.metrics.opening_dropped - before == count and connection.state is ConnectionState.CONNECTING
        world.answers.clear()
        world.loop.drop_cancelled()

    for _ in range(3):
        fail_an_opening()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5):
            tracemalloc.reset_peak()
            fail_an_opening()
        peak_bytes = tracemalloc.get_traced_memory()[1]
        gc.collect()
        left_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    print(f"{peak_bytes:,} bytes at most, {left_bytes:,} left")
    assert peak_bytes <= held_bytes, "what is held, and what is being read"
    assert left_bytes <= 32 * 1024, "of five failed openings"
