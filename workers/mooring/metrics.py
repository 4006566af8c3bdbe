"""What a worker counts. Plain numbers, sent with `Stats`; the service turns them into Prometheus's format. Leaf."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms' buckets; one more bucket holds what is above."""

LONG_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""The same of what may take hours: the time without a socket, the wait for the next one. As many as `SECONDS`."""


class Histogram(msgspec.Struct):
    """Counts by bucket of `SECONDS`, or of `LONG_SECONDS`, and the sum of what was observed."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float, bounds: tuple[float, ...] = SECONDS) -> None:
        """Count one duration; a histogram has the same `bounds` always."""
        self.counts[bisect_left(bounds, seconds)] += 1
        self.sum += seconds


class WorkerMetrics(msgspec.Struct):
    """Totals since the process began. `failures` is by `errCode`; sizes in bytes.

    From `disconnects` on they are of what stays, and of what clocks, recipes, queues and requests do. `disconnects` is by cause,
    `redials`, `keep_alives` and `requests` by outcome, `terminations` by why, `unsent` by reason, `silences` by clock and action
    (``data report``). `down`, `backoff_wait`, `limiter_wait`: of `LONG_SECONDS`.

    The `…_fill` are shares of a bound, 1 for full: of the one, items or bytes, that is nearer to it, and for what each
    connection has of its own, of the fullest connection.
    """

    opens: int = 0
    failures: dict[int, int] = {}
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pauses: int = 0
    callback_errors: int = 0
    inbound_bytes: int = 0
    outbound_bytes: int = 0
    mailbox_fill: float = 0.0
    outbox_fill: float = 0.0
    inbound_fill: float = 0.0
    outbound_fill: float = 0.0
    redials: dict[str, int] = {}
    dial: Histogram = msgspec.field(default_factory=Histogram)
    round_trip: Histogram = msgspec.field(default_factory=Histogram)
    callback: Histogram = msgspec.field(default_factory=Histogram)
    disconnects: dict[str, int] = {}
    reconnects: int = 0
    terminations: dict[str, int] = {}
    down: Histogram = msgspec.field(default_factory=Histogram)
    backoff_wait: Histogram = msgspec.field(default_factory=Histogram)
    limiter_wait: Histogram = msgspec.field(default_factory=Histogram)
    opening: Histogram = msgspec.field(default_factory=Histogram)
    silences: dict[str, int] = {}
    keep_alives: dict[str, int] = {}
    queued_messages: int = 0
    queued_bytes: int = 0
    unsent: dict[str, int] = {}
    requests: dict[str, int] = {}
    request: Histogram = msgspec.field(default_factory=Histogram)
    late_replies: int = 0
    opening_dropped: int = 0  # messages that came in openings that have failed
    unanswered: int = 0  # steps, answers and heartbeats that could not be sent

    def failed(self, err_code: int) -> None:
        """Count an ``onError``."""
        self.failures[err_code] = self.failures.get(err_code, 0) + 1

    def redialled(self, outcome: str) -> None:
        """Count an attempt of a kept connection that has ended: ``ready``, or why not."""
        count(self.redials, outcome)


def count(counts: dict[str, int], name: str, number: int = 1) -> None:
    """Count `number` more of `name`."""
    counts[name] = counts.get(name, 0) + number


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(WorkerMetrics).decode
