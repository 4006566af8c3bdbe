"""What a connection that stays costs the service more than one that does not, as long as it is idle."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec

from mooring.link.record import ConnectionCreated, ConnectionUpdate, KeptUpdate
from mooring.options import ConnectionRequest, effective
from mooring_service.directory import Directory
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed

COUNT = 300
AT_US = 1_700_000_000_000_000


def _told(connection: int, *, kept: bool) -> Append:
    """Return what a worker tells of one that has opened, as it comes over the link."""
    options = effective(ConnectionRequest(url=f"ws://a.test/{connection}", reconnect=kept))
    created = ConnectionCreated.of(connection, "w", None, AT_US + connection, options)
    at_us = AT_US + connection * 7
    stands = KeptUpdate(socket=1, socket_opened_at_us=at_us, last_heard_at_us=at_us + 5) if kept else None
    update = ConnectionUpdate(connection, "Connected", 1, opened_at_us=at_us, kept=stands)
    return Append(
        created=[msgspec.msgpack.decode(msgspec.msgpack.encode(created), type=ConnectionCreated)],
        updates=[msgspec.msgpack.decode(msgspec.msgpack.encode(update), type=ConnectionUpdate)],
    )


def _bytes_each(*, kept: bool) -> float:
    directory = Directory(1_000, 60.0, lambda: 0)
    for connection in range(1, 20):
        directory.fold(Committed(_told(connection, kept=kept), None))
    gc.collect()
    tracemalloc.start()
    try:
        for connection in range(20, 20 + COUNT):
            directory.fold(Committed(_told(connection, kept=kept), None))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / COUNT
    finally:
        tracemalloc.stop()


def test_one_that_stays_costs_a_quarter_of_a_kibibyte_more() -> None:  # 45
    more = _bytes_each(kept=True) - _bytes_each(kept=False)
    print(f"{more:.0f} bytes")
    assert more <= 256


def test_what_is_as_by_default_is_not_stored() -> None:
    """The policy of each connection stands in the journal: in full it is ten times as long as what asks for it."""
    options = [effective(ConnectionRequest(url="ws://a.test/", reconnect=kept)) for kept in (True, False)]
    kept, plain = (len(msgspec.msgpack.encode(ConnectionCreated.of(1, "w", None, AT_US, one))) for one in options)
    assert kept - plain <= 20
