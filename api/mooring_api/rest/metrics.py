"""``/metrics``: what the service and its workers have counted, gathered when Prometheus asks; nothing is kept twice.

Labels are workers, hooks, statuses, causes, directions, queues: never an id, never a URL.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mooring.errors import ErrCode
from mooring.metrics import LONG_SECONDS, SECONDS, Histogram, WorkerMetrics, decode
from mooring.version import __version__
from mooring_api.rest.cluster_metrics import CLUSTER_ROWS, Kind, Samples, Value
from mooring_service.cluster_records import ClusterFigures
from mooring_service.config import Config
from mooring_service.hooks.hook import BATCH_EVENTS, Hook
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_state import WorkerState
from mooring_service.service import Service

KNOWN = frozenset(ErrCode)
QUEUES = ("mailbox", "outbox", "inbound", "outbound")


def by_cause(*counts: Mapping[int, int]) -> Counter[str]:
    """Return the sum of counts that are by `errCode`, by the names of the codes."""
    found: Counter[str] = Counter()
    for count in counts:
        for err_code, number in count.items():
            # A worker that was adopted may be of a later version, whose codes we do not know: no reason to fail a scrape.
            found[ErrCode(err_code).name.lower() if err_code in KNOWN else "other"] += number
    return found


def _buckets(histogram: Histogram, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


class Seen(NamedTuple):
    """One worker at the moment of a scrape; `counted` is None without a process, or if it counts in a way that we do not know."""

    slot: Slot
    counted: WorkerMetrics | None


class Scrape:
    """What all rows look at: the service at one moment."""

    def __init__(self, service: Service, config: Config, lines_dropped: int = 0) -> None:
        self.service = service
        self.config = config
        self.lines_dropped = lines_dropped
        self.workers = [
            Seen(slot, figures_of(slot.stats.metrics) if slot.process else None) for slot in service.workers.slots()
        ]
        self.journal = service.journal.stats()
        self.cluster = None if service.cluster is None else service.cluster.figures
        self.downs = list(service.directory.downs())
        self.hooks = service.hooks.senders.hooks()
        self.lags = [subscription.lag for subscription in service.feed.subscriptions]


def figures_of(data: bytes) -> WorkerMetrics | None:
    """Return what a worker has sent with its `Stats`; None if it cannot be read."""
    try:
        return decode(data) if data else WorkerMetrics()
    except msgspec.MsgspecError:
        return None  # it was adopted, and is of another version: no reason to fail a scrape


Read = Callable[[Scrape], Samples]


class Row(NamedTuple):
    """One family: `read` returns its samples, values of the labels and the figure; `bounds`: of a histogram."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    read: Read
    bounds: tuple[float, ...] = SECONDS


def one(read: Callable[[Scrape], Value]) -> Read:
    """Read one sample without labels."""
    return lambda scrape: [((), read(scrape))]


def hooks(read: Callable[[Hook], Value]) -> Read:
    """Read one sample of each hook."""
    return lambda scrape: [((hook.name,), read(hook)) for hook in scrape.hooks]


def process(read: Callable[[Slot], float]) -> Read:
    """Read one sample of each worker that has a process."""
    return lambda scrape: [((seen.slot.name,), read(seen.slot)) for seen in scrape.workers if seen.slot.process]


def counted(read: Callable[[WorkerMetrics], Value]) -> Read:
    """Read one sample of what each worker has counted."""
    return lambda scrape: [((seen.slot.name,), read(seen.counted)) for seen in scrape.workers if seen.counted]


def several(names: tuple[str, ...], read: Callable[[Slot, WorkerMetrics], tuple[float, ...]]) -> Read:
    """Read a sample for each of `names` of each worker."""
    return lambda scrape: [
        ((seen.slot.name, name), value)
        for seen in scrape.workers
        if seen.counted
        for name, value in zip(names, read(seen.slot, seen.counted), strict=True)
    ]


def by_name(read: Callable[[Slot, WorkerMetrics], Iterable[tuple[str, Value]]]) -> Read:
    """Read a sample for each name that a worker has counted something of."""
    return lambda scrape: [
        ((seen.slot.name, name), value)
        for seen in scrape.workers
        if seen.counted
        for name, value in sorted(read(seen.slot, seen.counted))
    ]


def _disconnects(scrape: Scrape) -> Samples:
    for slot, metrics in scrape.workers:
        counts = Counter(metrics.disconnects if metrics else {}) + slot.disconnects
        yield from (((slot.name, cause), count) for cause, count in sorted(counts.items()))


def _unsent(scrape: Scrape) -> Samples:
    for slot, metrics in scrape.workers:
        counts = Counter(metrics.unsent if metrics else {})
        if slot.unsent:
            counts["workerDied"] += slot.unsent
        yield from (((slot.name, reason), count) for reason, count in sorted(counts.items()))


def _terminations(scrape: Scrape) -> Samples:
    counts = Counter(scrape.service.kept_ends)
    for slot, metrics in scrape.workers:
        if metrics is not None:
            counts.update({(slot.name, why): count for why, count in metrics.terminations.items()})
    return sorted(counts.items())


def _down(scrape: Scrape) -> Samples:
    return sorted(Counter((worker, down.phase) for worker, down in scrape.downs).items())


def _oldest_down_s(scrape: Scrape) -> Samples:
    now_us = time.time_ns() // 1000
    oldest_us = {slot.name: now_us for slot, _ in scrape.workers}
    for worker, down in scrape.downs:
        oldest_us[worker] = min(oldest_us.get(worker, now_us), down.since_us)
    return [((worker,), (now_us - since_us) / 1e6) for worker, since_us in sorted(oldest_us.items())]


def _silences(scrape: Scrape) -> Samples:
    for slot, metrics in scrape.workers:
        for name, count in sorted((metrics.silences if metrics else {}).items()):
            clock, _, action = name.partition(" ")
            yield (slot.name, clock, action), count


def _connections(scrape: Scrape) -> Samples:
    return sorted(scrape.service.directory.live_counts.items())


def _statuses(scrape: Scrape) -> Samples:
    for slot, _ in scrape.workers:
        for state in WorkerState:
            yield (slot.name, state.value), float(slot.state is state)


def _failures(scrape: Scrape) -> Samples:
    for slot, metrics in scrape.workers:
        for cause, count in sorted(by_cause(metrics.failures if metrics else {}, slot.failures).items()):
            yield (slot.name, cause), count


def _limits(scrape: Scrape) -> Samples:
    worker = scrape.config.worker
    bounds = (worker.mailbox_bytes, worker.outbox_bytes, worker.inbound_bytes, worker.outbound_bytes)
    return [((queue,), bound) for queue, bound in zip(QUEUES, bounds, strict=True)]


def _oldest_age_s(scrape: Scrape) -> float:
    return scrape.journal.oldest_age_s or 0.0


def of_cluster(read: Callable[[ClusterFigures], Samples]) -> Read:
    """Read the samples of a node; none where there is no cluster."""
    return lambda scrape: [] if scrape.cluster is None else read(scrape.cluster)


HOOK = ("hook",)
WORKER = ("worker",)
WORKER_QUEUE = ("worker", "queue")
WORKER_DIRECTION = ("worker", "direction")

ROWS = (
    Row("mooring_build_info", "gauge", "The running version.", ("version",), lambda scrape: [((__version__,), 1.0)]),
    Row("mooring_connections", "gauge", "Connections that have not ended.", ("worker", "status"), _connections),
    Row("mooring_worker_status", "gauge", "1 for the status that a worker has.", ("worker", "status"), _statuses),
    Row("mooring_worker_restarts", "counter", "Restarts of the worker's process.", WORKER,
        lambda scrape: [((slot.name,), slot.restarts) for slot, _ in scrape.workers]),
    Row("mooring_worker_cpu_seconds", "counter", "CPU of the worker's process.", WORKER, process(lambda slot: slot.stats.cpu_s)),
    Row("mooring_worker_resident_bytes", "gauge", "Resident memory of the worker's process.", WORKER,
        process(lambda slot: slot.stats.rss_bytes)),
    Row("mooring_mailbox_items", "gauge", "Callbacks and calls that wait.", WORKER, process(lambda slot: slot.stats.mailbox)),
    Row("mooring_paused_connections", "gauge", "Sockets that are not read because a queue is full.", WORKER,
        process(lambda slot: slot.stats.inbound_paused)),
    Row("mooring_queue_bytes", "gauge", "Bytes that wait, by queue.", WORKER_QUEUE,
        several(QUEUES, lambda slot, m: (slot.stats.mailbox_bytes, slot.stats.outbox_bytes, m.inbound_bytes, m.outbound_bytes))),
    Row("mooring_queue_fill_ratio", "gauge",
        "How full a queue is, 1 for full: by items or bytes, whichever is nearer; inbound, outbound: of the fullest connection.",
        WORKER_QUEUE, several(QUEUES, lambda _, m: (m.mailbox_fill, m.outbox_fill, m.inbound_fill, m.outbound_fill))),
    Row("mooring_queue_limit_bytes", "gauge", "The bound of each queue; inbound, outbound: of one connection's.", ("queue",), _limits),
    Row("mooring_opens", "counter", "Connections that became Connected.", WORKER, counted(lambda m: m.opens)),
    Row("mooring_failures", "counter", "onError events, by cause.", ("worker", "cause"), _failures),
    Row("mooring_disconnects", "counter", "onDisconnect events, by cause.", ("worker", "cause"), _disconnects),
    Row("mooring_reconnects", "counter", "onReconnect events.", WORKER, counted(lambda m: m.reconnects)),
    Row("mooring_redials", "counter", "Attempts of kept connections that have ended, by outcome; the first ones count, too.",
        ("worker", "outcome"), by_name(lambda _, m: m.redials.items())),
    Row("mooring_down_connections", "gauge", "Kept connections without a ready socket, by what they do.", ("worker", "phase"), _down),
    Row("mooring_oldest_down_seconds", "gauge", "For how long the one that is down longest has been; 0: none is.", WORKER, _oldest_down_s),
    Row("mooring_down_seconds", "histogram", "From a loss to the next ready socket.", WORKER, counted(lambda m: m.down), LONG_SECONDS),
    Row("mooring_redial_wait_seconds", "histogram", "Waits before a dial: of the delay (backoff), and for its turn (limiter).",
        ("worker", "by"), by_name(lambda _, m: [("backoff", m.backoff_wait), ("limiter", m.limiter_wait)]), LONG_SECONDS),
    Row("mooring_opening_seconds", "histogram", "From the 101 to ready.", WORKER, counted(lambda m: m.opening)),
    Row("mooring_terminations", "counter", "Ends of kept connections, by why.", ("worker", "why"), _terminations),
    Row("mooring_silences", "counter", "Clocks that have fired, by clock and what followed.", ("worker", "clock", "action"), _silences),
    Row("mooring_keepalives", "counter", "Heartbeats of keepAlive, by outcome.", ("worker", "outcome"),
        by_name(lambda _, m: m.keep_alives.items())),
    Row("mooring_queued_messages", "gauge", "Messages that wait for a socket.", WORKER, counted(lambda m: m.queued_messages)),
    Row("mooring_queued_bytes", "gauge", "Their bytes.", WORKER, counted(lambda m: m.queued_bytes)),
    Row("mooring_unsent", "counter", "Messages that were given up unsent, by reason.", ("worker", "reason"), _unsent),
    Row("mooring_requests", "counter", "Requests over connections, by outcome.", ("worker", "outcome"), by_name(lambda _, m: m.requests.items())),
    Row("mooring_request_seconds", "histogram", "From a request to its reply.", WORKER, counted(lambda m: m.request)),
    Row("mooring_opening_dropped_messages", "counter", "Messages that came in openings that have failed.", WORKER,
        counted(lambda m: m.opening_dropped)),
    Row("mooring_unanswered", "counter", "Answers and heartbeats that could not be filled in or sent.", WORKER,
        counted(lambda m: m.unanswered)),
    Row("mooring_late_replies", "counter", "Replies that nobody waited for any more.", WORKER, counted(lambda m: m.late_replies)),
    Row("mooring_messages", "counter", "Messages received and sent.", WORKER_DIRECTION,
        several(("in", "out"), lambda _, m: (m.messages_in, m.messages_out))),
    Row("mooring_bytes", "counter", "Their payload bytes.", WORKER_DIRECTION,
        several(("in", "out"), lambda _, m: (m.bytes_in, m.bytes_out))),
    Row("mooring_pauses", "counter", "How often a socket was paused.", WORKER, counted(lambda m: m.pauses)),
    Row("mooring_callback_errors", "counter", "Callbacks and calls that raised.", WORKER, counted(lambda m: m.callback_errors)),
    Row("mooring_callback_seconds", "histogram", "Duration of callbacks and calls.", WORKER, counted(lambda m: m.callback)),
    Row("mooring_dial_seconds", "histogram", "From the first packet to Connected.", WORKER, counted(lambda m: m.dial)),
    Row("mooring_ping_round_trip_seconds", "histogram", "Ping to pong.", WORKER, counted(lambda m: m.round_trip)),
    Row("mooring_callback_running_seconds", "gauge", "Age of the running callback; 0: none.", WORKER,
        process(lambda slot: slot.stats.running_s if slot.stats.running else 0.0)),
    Row("mooring_adoption_seconds", "gauge", "How long the adoption of running workers took at the start.", (),
        one(lambda scrape: scrape.service.workers.adoption_s)),
    Row("mooring_journal_events", "gauge", "Events kept.", (), one(lambda scrape: scrape.journal.events)),
    Row("mooring_journal_bytes", "gauge", "Bytes of events kept.", (), one(lambda scrape: scrape.journal.bytes)),
    Row("mooring_journal_oldest_age_seconds", "gauge", "Age of the oldest event kept.", (), one(_oldest_age_s)),
    Row("mooring_journal_max_age_seconds", "gauge", "journal.max_age: older events are dropped.", (),
        one(lambda scrape: scrape.config.journal.max_age)),
    Row("mooring_journal_queued_bytes", "gauge", "Bytes that wait to be committed.", (), one(lambda scrape: scrape.journal.queued_bytes)),
    Row("mooring_journal_failing", "gauge", "1 while it cannot be written.", (),
        one(lambda scrape: float(scrape.journal.failure is not None))),
    Row("mooring_journal_last_commit_seconds", "gauge", "Duration of the last commit.", (), one(lambda scrape: scrape.journal.last_commit_s)),
    Row("mooring_journal_commits", "counter", "Transactions.", (), one(lambda scrape: scrape.journal.commits)),
    Row("mooring_journal_commit_seconds", "counter", "Time spent in them.", (), one(lambda scrape: scrape.journal.commit_seconds)),
    Row("mooring_journal_batches", "counter", "Batches of events appended: what one transaction holds is the ratio.", (),
        one(lambda scrape: scrape.journal.batches)),
    Row("mooring_journal_appended_events", "counter", "Position of the newest event.", (), one(lambda scrape: scrape.journal.last)),
    Row("mooring_subscribers", "gauge", "Open event streams.", (), one(lambda scrape: len(scrape.lags))),
    Row("mooring_subscriber_lag_events_max", "gauge", "Events that the slowest subscriber is behind.", (),
        one(lambda scrape: max(scrape.lags, default=0))),
    Row("mooring_subscribers_behind", "gauge", "Subscribers more than 10,000 events behind.", (),
        one(lambda scrape: sum(lag > 10_000 for lag in scrape.lags))),
    Row("mooring_event_latency_seconds", "histogram", "From the socket to the subscribers.", (), one(lambda scrape: scrape.service.latency)),
    Row("mooring_hook_attempts", "counter", "POSTs of hooks, by outcome.", ("hook", "outcome"),
        lambda scrape: [((hook.name, outcome), count) for hook in scrape.hooks for outcome, count in sorted(hook.figures.attempts.items())]),
    Row("mooring_hook_events", "counter", "Events that receivers have taken.", HOOK, hooks(lambda hook: hook.figures.events)),
    Row("mooring_hook_bytes", "counter", "Bytes of the bodies that they have taken.", HOOK, hooks(lambda hook: hook.figures.bytes)),
    Row("mooring_hook_skipped", "counter", "Events that hooks have given up.", HOOK, hooks(lambda hook: hook.figures.skipped)),
    Row("mooring_hook_lag_events", "gauge", "Events between a hook and the newest.", HOOK,
        lambda scrape: [((hook.name,), hook.lag(scrape.service.feed.last)) for hook in scrape.hooks]),
    Row("mooring_hook_lag_seconds", "gauge", "For how long the oldest event that a hook lacks is there.", HOOK,
        lambda scrape: [((hook.name,), scrape.service.hooks.senders.lag_s(hook)) for hook in scrape.hooks]),
    Row("mooring_hook_failing_seconds", "gauge", "For how long a hook has been failing; 0: it is not.", HOOK, hooks(lambda hook: hook.failing_s)),
    Row("mooring_hook_paused", "gauge", "1 for a hook that is paused.", HOOK, hooks(lambda hook: float(hook.paused is not None))),
    Row("mooring_hook_request_seconds", "histogram", "From the dial, or the first byte, to the answer.", HOOK,
        hooks(lambda hook: hook.figures.seconds)),
    Row("mooring_hook_batch_events", "histogram", "Events of the POSTs that were taken.", HOOK,
        hooks(lambda hook: hook.figures.batches), BATCH_EVENTS),
    *(Row(row.name, row.kind, row.text, row.labels, of_cluster(row.read)) for row in CLUSTER_ROWS),
    Row("mooring_log_lines_dropped", "counter", "Lines of the service's log that nobody has read in time.", (),
        one(lambda scrape: scrape.lines_dropped)),
)  # fmt: skip
"""Every family that is served, beside those of the process; the dashboard and the alerts are held to it by a test."""


def family_of(row: Row, scrape: Scrape) -> Metric:
    """Return what a row tells now."""
    if row.kind == "histogram":
        histograms = HistogramMetricFamily(row.name, row.text, labels=row.labels)
        for labels, value in row.read(scrape):
            # A worker of another version may have other buckets. Its bounds are unknown: of it alone nothing is told.
            if isinstance(value, Histogram) and len(value.counts) == len(SECONDS) + 1:
                histograms.add_metric(labels, _buckets(value, row.bounds), value.sum)
        return histograms
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(row.name, row.text, labels=row.labels)
    for labels, value in row.read(scrape):
        if isinstance(value, (int, float)):
            family.add_metric(labels, value)
    return family


class ServiceCollector(Collector):
    """Makes the metric families of one service."""

    def __init__(self, service: Service, config: Config, lines_dropped: Callable[[], int]) -> None:
        self._service = service
        self._config = config
        self._lines_dropped = lines_dropped

    def collect(self) -> Iterator[Metric]:
        """Yield everything, as of now."""
        scrape = Scrape(self._service, self._config, self._lines_dropped())
        for row in ROWS:
            yield family_of(row, scrape)


class _Collected(Collector):
    """Families that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


class Metrics:
    """The registry of one service."""

    def __init__(self, service: Service, config: Config, lines_dropped: Callable[[], int]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(ServiceCollector(service, config, lines_dropped))

    async def render(self) -> bytes:
        """Return the text exposition format."""
        families = list(self._registry.collect())  # here: it looks at the service
        # Of 256 workers it is a megabyte; writing it takes 0.1 s, in which events must go on.
        return await asyncio.to_thread(generate_latest, _Collected(families))
