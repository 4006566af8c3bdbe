"""What a connection that stays costs more than one that does not, in the worker: queues, policies and specs are made when needed, or shared."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec

from mooring.connection.connection import Connection
from mooring.connection.kept import KeptConnection
from mooring.link.messages import LinkRequest
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionRequest, effective
from tests.workers.connection.world import World

COUNT = 300


def _bytes_each(*, kept: bool) -> float:
    world = World()
    held: list[object] = []

    def open_one(number: int) -> None:
        asked = ConnectionRequest(url=f"ws://a.test/{number}", reconnect=kept)
        asked = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=LinkRequest)  # as it comes over the link
        options = effective(asked)
        created = ConnectionCreated.of(number, "w", None, 1_700_000_000_000_000 + number, options)
        connection = (
            KeptConnection(world, created, options, None, None, asked)  # type: ignore[arg-type]  # the host
            if kept
            else Connection(world, created, options, None)  # type: ignore[arg-type]
        )
        connection.dial(0)
        world.loop.advance()
        world.dialler.dials.pop().accept()
        world.loop.advance()
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
