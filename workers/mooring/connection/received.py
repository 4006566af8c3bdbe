"""What came in one read, on its way to the outbox or to the handler's callbacks, and whether there is room for more.

On the I/O loop only. The messages are counted here, and nowhere else.
"""

from __future__ import annotations

from mooring.connection.conversion import convert_all, render
from mooring.connection.host import Host
from mooring.connection.recorded import RecordedConnection
from mooring.events import now_us


def take(host: Host, connection: RecordedConnection, items: list[tuple[int, bytes]]) -> str | None:
    """Record the messages of one read, or hand them over; return what is wrong with the one after them, if anything is.

    The hot path: without a handler they go from their frames straight to the outbox, as one run.
    """
    connection.last_message_at_us = time_us = now_us()
    if connection.handler is not None:
        return _hand_over(host, connection, items)
    received = render(items, connection.options.data_type, connection.message_prefix, connection.seq, time_us)
    _count(host, connection, received.count, received.size)
    bodies = received.bodies
    if bodies:
        connection.seq += len(bodies)
        host.outbox.add(connection, b"\x02" * len(bodies), b"\n".join(bodies), connection.seq)
        host.wake()
    return received.failure


def _hand_over(host: Host, connection: RecordedConnection, items: list[tuple[int, bytes]]) -> str | None:
    """With a handler: give the messages of one read to the context in one go."""
    received = convert_all(items, connection.options.data_type)
    _count(host, connection, received.count, received.size)
    if received.messages:
        size = received.size if received.failure is None else sum(len(payload) for _, payload in received.messages)
        host.mailbox.post_messages(connection, received.messages, size)
    host.touch(connection)
    return received.failure


def _count(host: Host, connection: RecordedConnection, count: int, size: int) -> None:
    connection.messages_in += count
    connection.bytes_in += size
    metrics = host.metrics
    metrics.messages_in += count
    metrics.bytes_in += size


def has_room(host: Host, connection: RecordedConnection) -> bool:
    """Say whether every queue that `connection` feeds has room."""
    if host.outbox.full:
        return False
    if connection.handler is None:
        return True
    settings = host.settings
    return (
        connection.posted - connection.taken < settings.inbound_messages
        and connection.posted_bytes - connection.taken_bytes < settings.inbound_bytes
        and not host.mailbox.full
    )
