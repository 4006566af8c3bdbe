"""How the worker does: what it counts, what is looked at, and the connections whose figures have changed."""

from __future__ import annotations

import time

from mooring.connection.live import LiveConnection
from mooring.connection.recorded import RecordedConnection
from mooring.link.messages import Stats, WorkerSettings
from mooring.link.outbox import Outbox
from mooring.metrics import WorkerMetrics, encode
from mooring.process.identity import cpu_s, rss_bytes
from mooring.usercode.context import Context


class Figures:
    """The figures of one worker. On the I/O loop only.

    Attributes:
        metrics: What is counted where it happens.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings  # of the bounds, which never change
        self._changed: dict[RecordedConnection, None] = {}
        self._waiting: dict[RecordedConnection, None] = {}
        self.metrics = WorkerMetrics()

    def changed(self, connection: RecordedConnection) -> None:
        """Only figures of `connection` have changed: they are reported with the next `Stats`."""
        self._changed[connection] = None

    def waits(self, connection: RecordedConnection) -> None:
        """Something waits at `connection`, for its peer or its handler: it is looked at as long as it does.

        Nobody looks at all of them: that would be a quarter of what thousands that are idle cost.
        """
        self._waiting[connection] = None

    def forget(self, connection: RecordedConnection) -> None:
        """`connection` is over; its last record had its figures."""
        self._changed.pop(connection, None)
        self._waiting.pop(connection, None)

    def stats(self, probe: int, context: Context, outbox: Outbox, inbound_paused: int) -> Stats:
        """Return how the worker does."""
        changed, self._changed = self._changed, {}
        running = context.running.item
        self._measure(context, outbox)
        return Stats(
            probe=probe,
            mailbox=context.mailbox.length,
            mailbox_bytes=context.mailbox.length_bytes,
            running=None if running is None else running[0],
            running_s=0.0 if running is None else time.monotonic() - running[1],
            cpu_s=cpu_s(),
            rss_bytes=rss_bytes(),
            outbox=outbox.held_frames,
            outbox_bytes=outbox.held_bytes,
            inbound_paused=inbound_paused,
            metrics=encode(self.metrics),
            updates=[connection.update() for connection in changed],
            discarded=context.discarded,
            calls=context.mailbox.calls,
        )

    def _measure(self, context: Context, outbox: Outbox) -> None:
        """Bring what is looked at, not counted, into the metrics: how full the queues are."""
        metrics, settings, mailbox = self.metrics, self._settings, context.mailbox
        metrics.callback_errors = context.running.errors
        metrics.mailbox_fill = max(
            mailbox.length / settings.mailbox_items, mailbox.length_bytes / settings.mailbox_bytes
        )
        metrics.outbox_fill = outbox.held_bytes / settings.outbox_bytes
        metrics.inbound_bytes = metrics.outbound_bytes = most = most_bytes = most_out = 0
        for connection in list(self._waiting):
            outbound_bytes = connection.outbound_bytes if isinstance(connection, LiveConnection) else 0
            waiting, waiting_bytes = (
                connection.posted - connection.taken,
                connection.posted_bytes - connection.taken_bytes,
            )
            if connection.ended or not (waiting or outbound_bytes):
                del self._waiting[connection]
                continue
            metrics.inbound_bytes += waiting_bytes
            metrics.outbound_bytes += outbound_bytes
            most = max(most, waiting)
            most_bytes = max(most_bytes, waiting_bytes)
            most_out = max(most_out, outbound_bytes)
        metrics.inbound_fill = max(most / settings.inbound_messages, most_bytes / settings.inbound_bytes)
        metrics.outbound_fill = most_out / settings.outbound_bytes
