"""What came in one read, on its way to the outbox or to the handler's callbacks, and whether there is room for more.

On the I/O loop only. The messages are counted here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mooring.connection.conversion import (
    Converted,
    Rendered,
    convert_all,
    fill_item,
    filled_body,
    message_body,
    render,
)
from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.errors import LimitReached
from mooring.events import now_us


def take(host: Host, connection: RecordedConnection, items: list[tuple[int, bytes]]) -> str | None:
    """Record the messages of one read, or hand them over; return what is wrong with the one after them, if anything is.

    The hot path: without a handler they go from their frames straight to the outbox, as one run.
    """
    connection.last_message_at_us = time_us = now_us()
    taken: Rendered | Converted
    if connection.handler is None:
        taken = render(items, connection.options.data_type, connection.message_prefix, connection.seq, time_us)
        if taken.events:
            connection.seq += taken.events
            host.outbox.add(connection, b"\x02" * taken.events, taken.bodies, connection.seq)
            host.wake()
    else:
        taken = _hand_over(host, connection, items)
    connection.messages_in += taken.count
    connection.bytes_in += taken.size
    metrics = host.metrics
    metrics.messages_in += taken.count
    metrics.bytes_in += taken.size
    return taken.failure


def _hand_over(host: Host, connection: RecordedConnection, items: list[tuple[int, bytes]]) -> Converted:
    """With a handler: give the messages of one read to the context in one go."""
    taken = convert_all(items, connection.options.data_type)
    if taken.messages:
        size = taken.size if taken.failure is None else sum(len(payload) for _, payload in taken.messages)
        host.mailbox.post_messages(connection, taken.messages, size)
        host.waits(connection)
    host.touch(connection)
    return taken


def has_room(host: Host, connection: RecordedConnection, *, waited_for: bool = False) -> bool:
    """Say whether every queue that `connection` feeds has room.

    Args:
        waited_for: Code waits for a reply that is still to be read, so the messages before it wait, too: within the mailbox's bounds.
    """
    if host.outbox.full:
        return False
    if connection.handler is None:
        return True
    if waited_for:
        return not host.mailbox.full
    settings = host.settings
    return (
        connection.posted - connection.taken < settings.inbound_messages
        and connection.posted_bytes - connection.taken_bytes < settings.inbound_bytes
        and not host.mailbox.full
    )


def fill(host: Host, connection: RecordedConnection, items: Iterable[Any]) -> int:
    """Record messages that were fetched elsewhere, or hand them over; return how many.

    Raises:
        TypeError: If one is not of the data type; none is taken then.
        LimitReached: If they are more than ``worker.mailbox_bytes``, or one is larger than any message may be.
    """
    data_type = connection.options.data_type
    found = [fill_item(data_type, item) for item in items]
    size = sum(len(payload) for _, payload in found)
    if size > host.settings.mailbox_bytes:
        raise LimitReached("worker.mailbox_bytes", host.settings.mailbox_bytes)
    if not found:
        return 0
    if connection.handler is not None:
        host.mailbox.post_messages(connection, found, size, filled=True)
        host.waits(connection)
    else:
        time_us, prefix, seq = now_us(), connection.message_prefix, connection.seq
        bodies = [
            filled_body(message_body(prefix, seq + count, time_us, data_type, data, payload))
            for count, (data, payload) in enumerate(found, 1)
        ]
        connection.seq += len(bodies)
        host.outbox.add(connection, b"\x02" * len(bodies), b"\n".join(bodies), connection.seq)
        host.wake()
    return len(found)
