"""``/metrics``: what the service and its workers have counted, gathered when Prometheus asks; nothing is kept twice.

Labels are workers, statuses, causes, directions, queues: never an id, never a URL.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mooring.errors import ErrCode
from mooring.metrics import SECONDS, Histogram, WorkerMetrics, decode
from mooring.version import __version__
from mooring_service.config import Config
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


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


class ServiceCollector(Collector):
    """Makes the metric families of one service."""

    def __init__(self, service: Service, config: Config) -> None:
        self._service = service
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """Yield everything, as of now."""
        yield self._info()
        yield from self._connections()
        yield from self._workers()
        yield from self._journal()
        yield from self._feed()

    @staticmethod
    def _info() -> Metric:
        family = GaugeMetricFamily("mooring_build_info", "The running version.", labels=["version"])
        family.add_metric([__version__], 1)
        return family

    def _connections(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "mooring_connections", "Connections that have not ended.", labels=["worker", "status"]
        )
        for (worker, status), count in sorted(self._service.directory.live_counts().items()):
            family.add_metric([worker, status], count)
        return [family]

    def _workers(self) -> Iterator[Metric]:
        slots = self._service.workers.slots()
        label = ["worker"]
        up = GaugeMetricFamily(
            "mooring_worker_status", "1 for the status that a worker has.", labels=["worker", "status"]
        )
        restarts = CounterMetricFamily("mooring_worker_restarts", "Restarts of the worker's process.", labels=label)
        cpu = CounterMetricFamily("mooring_worker_cpu_seconds", "CPU of the worker's process.", labels=label)
        rss = GaugeMetricFamily(
            "mooring_worker_resident_bytes", "Resident memory of the worker's process.", labels=label
        )
        mailbox = GaugeMetricFamily("mooring_mailbox_items", "Callbacks and calls that wait.", labels=label)
        paused = GaugeMetricFamily(
            "mooring_paused_connections", "Sockets that are not read because a queue is full.", labels=label
        )
        held = GaugeMetricFamily("mooring_queue_bytes", "Bytes that wait, by queue.", labels=["worker", "queue"])
        fill = GaugeMetricFamily(
            "mooring_queue_fill_ratio",
            "How full a queue is, 1 for full: by items or bytes, whichever is nearer; inbound, outbound: of the fullest connection.",
            labels=["worker", "queue"],
        )
        opens = CounterMetricFamily("mooring_opens", "Connections that became Connected.", labels=label)
        failures = CounterMetricFamily("mooring_failures", "onError events, by cause.", labels=["worker", "cause"])
        messages = CounterMetricFamily(
            "mooring_messages", "Messages received and sent.", labels=["worker", "direction"]
        )
        size = CounterMetricFamily("mooring_bytes", "Their payload bytes.", labels=["worker", "direction"])
        pauses = CounterMetricFamily("mooring_pauses", "How often a socket was paused.", labels=label)
        errors = CounterMetricFamily("mooring_callback_errors", "Callbacks and calls that raised.", labels=label)
        callback = HistogramMetricFamily("mooring_callback_seconds", "Duration of callbacks and calls.", labels=label)
        dial = HistogramMetricFamily("mooring_dial_seconds", "From the request to Connected.", labels=label)
        trip = HistogramMetricFamily("mooring_ping_round_trip_seconds", "Ping to pong.", labels=label)
        busy = GaugeMetricFamily(
            "mooring_callback_running_seconds", "Age of the running callback; 0: none.", labels=label
        )
        for slot in slots:
            name, stats = slot.name, slot.stats
            for state in WorkerState:
                up.add_metric([name, state.value], float(slot.state is state))
            restarts.add_metric([name], slot.restarts)
            counted = decode(stats.metrics) if stats.metrics and slot.process is not None else WorkerMetrics()
            for cause, count in sorted(by_cause(counted.failures, slot.failures).items()):
                failures.add_metric([name, cause], count)
            if slot.process is None:
                continue
            cpu.add_metric([name], stats.cpu_s)
            rss.add_metric([name], stats.rss_bytes)
            mailbox.add_metric([name], stats.mailbox)
            paused.add_metric([name], stats.inbound_paused)
            busy.add_metric([name], stats.running_s if stats.running else 0.0)
            sizes = (stats.mailbox_bytes, stats.outbox_bytes, counted.inbound_bytes, counted.outbound_bytes)
            fills = (counted.mailbox_fill, counted.outbox_fill, counted.inbound_fill, counted.outbound_fill)
            for queue, size_now, share in zip(QUEUES, sizes, fills, strict=True):
                held.add_metric([name, queue], size_now)
                fill.add_metric([name, queue], share)
            opens.add_metric([name], counted.opens)
            messages.add_metric([name, "in"], counted.messages_in)
            messages.add_metric([name, "out"], counted.messages_out)
            size.add_metric([name, "in"], counted.bytes_in)
            size.add_metric([name, "out"], counted.bytes_out)
            pauses.add_metric([name], counted.pauses)
            errors.add_metric([name], counted.callback_errors)
            for family, histogram in ((callback, counted.callback), (dial, counted.dial), (trip, counted.round_trip)):
                family.add_metric([name], _buckets(histogram), histogram.sum)
        limits = GaugeMetricFamily(
            "mooring_queue_limit_bytes",
            "The bound of each queue; inbound, outbound: of one connection's.",
            labels=["queue"],
        )
        worker = self._config.worker
        bounds = (worker.mailbox_bytes, worker.outbox_bytes, worker.inbound_bytes, worker.outbound_bytes)
        for queue, limit in zip(QUEUES, bounds, strict=True):
            limits.add_metric([queue], limit)
        yield from (
            up, restarts, cpu, rss, mailbox, paused, held, fill, limits, opens, failures, messages, size, pauses, errors, callback,
            dial, trip, busy,
        )  # fmt: skip
        adoption = GaugeMetricFamily(
            "mooring_adoption_seconds", "How long the adoption of running workers took at the start."
        )
        if self._service.workers.adoption_s is not None:
            adoption.add_metric([], self._service.workers.adoption_s)
        yield adoption

    def _journal(self) -> Iterator[Metric]:
        stats = self._service.journal.stats()
        age = 0.0 if stats.oldest_time_ms is None else max(0.0, time.time() - stats.oldest_time_ms / 1000)
        for name, text, value in (
            ("mooring_journal_events", "Events kept.", stats.events),
            ("mooring_journal_bytes", "Bytes of events kept.", stats.bytes),
            ("mooring_journal_oldest_age_seconds", "Age of the oldest event kept.", age),
            ("mooring_journal_queued_bytes", "Bytes that wait to be committed.", stats.queued_bytes),
            ("mooring_journal_failing", "1 while it cannot be written.", float(stats.failure is not None)),
            ("mooring_journal_last_commit_seconds", "Duration of the last commit.", stats.last_commit_s),
        ):
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric([], value)
            yield gauge
        for name, text, value in (
            ("mooring_journal_commits", "Transactions.", stats.commits),
            ("mooring_journal_commit_seconds", "Time spent in them.", stats.commit_seconds),
            (
                "mooring_journal_batches",
                "Batches of events appended: what one transaction holds is the ratio.",
                stats.batches,
            ),
            ("mooring_journal_appended_events", "Position of the newest event.", stats.last),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], value)
            yield counter

    def _feed(self) -> Iterator[Metric]:
        lags = [subscription.lag for subscription in self._service.feed.subscriptions]
        for name, text, value in (
            ("mooring_subscribers", "Open event streams.", len(lags)),
            (
                "mooring_subscriber_lag_events_max",
                "Events that the slowest subscriber is behind.",
                max(lags, default=0),
            ),
            (
                "mooring_subscribers_behind",
                "Subscribers more than 10,000 events behind.",
                sum(lag > 10_000 for lag in lags),
            ),
        ):
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric([], value)
            yield gauge
        latency = self._service.latency
        family = HistogramMetricFamily("mooring_event_latency_seconds", "From the socket to the subscribers.")
        family.add_metric([], _buckets(latency), latency.sum)
        yield family


class _Collected(Collector):
    """Families that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


class Metrics:
    """The registry of one service."""

    def __init__(self, service: Service, config: Config) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(ServiceCollector(service, config))

    async def render(self) -> bytes:
        """Return the text exposition format."""
        families = list(self._registry.collect())  # here: it looks at the service
        # Of 256 workers it is a megabyte; writing it takes 0.1 s, in which events must go on.
        return await asyncio.to_thread(generate_latest, _Collected(families))
