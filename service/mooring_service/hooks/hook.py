"""One hook: its definition, its secrets, its place, what is known of its receiver; and its record. No I/O."""

from __future__ import annotations

import time
from collections import Counter, deque

import msgspec

from mooring.dial_options import ProxyRequest
from mooring.events import now_us, rfc3339
from mooring.metrics import Histogram
from mooring_service.hook_options import HIDDEN, HookRequest, fingerprint, secret_key
from mooring_service.hook_records import AttemptRecord, HeldEvent, HookRecord, SecretRecord
from mooring_service.hooks.page import Cut
from mooring_service.hooks.place import Place
from mooring_service.hooks.state import Outcome, Progress, Rules, begin, failing_at_s

ATTEMPTS_KEPT = 100
MAX_SECRETS = 3
BATCH_EVENTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1_000.0)
"""Bounds of the histogram of what one POST held; as many as `mooring.metrics.SECONDS`."""


class _Kinded(msgspec.Struct):
    kind: str


_kind_of = msgspec.json.Decoder(_Kinded).decode


class Secret(msgspec.Struct, frozen=True, rename="camel"):
    """One secret, and until when it signs (None: until it is replaced). Microseconds since 1970."""

    secret: str
    created_us: int
    expires_us: int | None = None


class Figures:
    """What a hook has counted since this start."""

    def __init__(self) -> None:
        self.attempts: Counter[Outcome] = Counter()
        self.events = 0
        self.bytes = 0
        self.skipped = 0
        self.seconds = Histogram()
        self.batches = Histogram()


class Hook:
    """What is known of one hook. Its sender and its verbs change it; both run on the event loop.

    Attributes:
        configured: It stands in the configuration.
        paused: Why it is; None: it is not. `paused_us`: since when.
        also_paused: Why it stays so once it is in the configuration again, or has its secret; None: it goes on then.
        cut: The batch that is under way or waits to be repeated.
        attempt: How often that went out.
        next_attempt_s: When it goes out again (monotonic); None: nothing waits.
        is_late: Its lag was told.
        passed: Everything up to this position was looked at, and nothing of it waits; 0: something does.
        behind_ms: When the oldest event that it lacks was committed (`Journal.now_ms`); 0: it lacks none.
    """

    def __init__(
        self,
        name: str,
        definition: HookRequest,
        secrets: list[Secret],
        place: Place,
        *,
        created_us: int,
        configured: bool = False,
        paused: str | None = None,
        paused_us: int = 0,
        also_paused: str | None = None,
    ) -> None:
        self.name = name
        self.definition = definition
        self.secrets = secrets
        self.place = place
        self.created_us = created_us
        self.configured = configured
        self.paused = paused
        self.paused_us = paused_us
        self.also_paused = also_paused
        self.progress: Progress = begin(self.rules)
        self.cut: Cut | None = None
        self.attempt = 0
        self.next_attempt_s: float | None = None
        self.is_late = False
        self.attempts: deque[AttemptRecord] = deque(maxlen=ATTEMPTS_KEPT)
        self.skew_s: float | None = None
        self.passed = 0
        self.behind_ms = 0
        self.figures = Figures()

    @property
    def rules(self) -> Rules:
        """What the definition says to whoever decides."""
        definition = self.definition
        retry = definition.retry
        return Rules(retry.delay, retry.max_delay, definition.refused == "skip", definition.page_events)

    def keys(self, now_us: int) -> list[bytes]:
        """Return the bytes of the secrets that are valid, newest first."""
        return [secret_key(one.secret) for one in self.valid(now_us)]

    def valid(self, now_us: int) -> list[Secret]:
        """Return the secrets that are valid, newest first."""
        return [one for one in self.secrets if one.expires_us is None or now_us < one.expires_us]

    @property
    def failing_since_us(self) -> int | None:
        """When the first failure came that no success has followed, be it before this start."""
        told, since_s = self.place.failing, self.progress.since_s
        if told is not None:
            return told.since_us
        return None if since_s is None else _wall_us(since_s)

    @property
    def is_failing(self) -> bool:
        """Whether its status is Failing."""
        at_s = failing_at_s(self.progress)
        failing = self.place.failing is not None or (at_s is not None and time.monotonic() >= at_s)
        return self.paused is None and failing

    @property
    def failing_s(self) -> float:
        """For how long it has been failing; 0: it is not."""
        since_us = self.failing_since_us
        return 0.0 if since_us is None or self.paused is not None else max(0.0, (now_us() - since_us) / 1e6)

    @property
    def status(self) -> str:
        """Active, Failing or Paused."""
        return "Paused" if self.paused is not None else "Failing" if self.is_failing else "Active"

    @property
    def reason(self) -> str | None:
        """Why it is not Active."""
        if self.paused is not None:
            return self.paused
        if not self.is_failing:
            return None
        told = self.place.failing
        return told.reason if told is not None and self.progress.reason is None else self.progress.reason

    def lag(self, last: int) -> int:
        """Return how many events there are behind what it has done, or knows to be of no concern to it.

        Args:
            last: Position of the newest event.
        """
        return max(0, last - max(self.place.position, self.passed))

    @property
    def held(self) -> list[HeldEvent]:
        """The events of the batch that waits to be repeated."""
        cut = self.cut
        if cut is None or self.attempt == 0:
            return []
        return [HeldEvent(cut.id_of(at), _kind_of(event).kind, len(event)) for at, event in cut.events]

    def record(self, last: int, lag_s: float, *, held: bool = False) -> HookRecord:
        """Return the public record.

        Args:
            last: Position of the newest event.
            lag_s: For how long the oldest event that it lacks is there.
            held: With what waits, but for its data.
        """
        one, place = self.definition, self.place
        since_us = self.failing_since_us
        proxy = one.proxy.url if isinstance(one.proxy, ProxyRequest) else one.proxy
        return HookRecord(
            name=self.name,
            url=one.shown_url,
            status=self.status,
            reason=self.reason,
            cursor=place.after if place.epoch == "" else f"{place.epoch}-{place.position}",
            generation=place.generation,
            lag=self.lag(last),
            lag_seconds=round(lag_s, 3),
            failing_since=None if since_us is None else rfc3339(since_us),
            next_attempt_at=None if self.next_attempt_s is None else rfc3339(_wall_us(self.next_attempt_s)),
            attempts=self.attempt,
            delivered=place.delivered,
            skipped=place.skipped,
            last_success_at=rfc3339(place.last_success_us) if place.last_success_us else None,
            last_attempt=self.attempts[-1] if self.attempts else None,
            clock_skew=None if self.skew_s is None else round(self.skew_s, 1),
            workers=one.workers,
            connections=one.connections,
            kinds=one.kinds,
            after=one.after,
            format=one.format,
            max_events=one.page_events,
            max_bytes=one.max_bytes,
            max_event_bytes=one.max_event_bytes,
            linger=one.linger,
            timeout=one.timeout,
            retry={"delay": one.retry.delay, "maxDelay": one.retry.max_delay},
            refused=one.refused,
            headers=dict.fromkeys(one.headers, HIDDEN),
            tls=msgspec.to_builtins(one.tls),
            proxy=proxy,
            secrets=[
                SecretRecord(
                    fingerprint(secret.secret),
                    rfc3339(secret.created_us),
                    None if secret.expires_us is None else rfc3339(secret.expires_us),
                )
                for secret in self.valid(now_us())
            ],
            created_at=rfc3339(self.created_us),
            configured=self.configured,
            held=self.held if held else [],
        )


def _wall_us(monotonic_s: float) -> int:
    return now_us() + int((monotonic_s - time.monotonic()) * 1e6)
